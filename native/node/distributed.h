// The addon's functions of process groups.
#pragma once

#include <node_api.h>

namespace flashmask {
namespace node {

void ExportDistributed(napi_env env, napi_value exports);

}  // namespace node
}  // namespace flashmask
