// The addon's functions of process groups (native/distributed):
//
//   startMpi(libraries: string[]): {library, rank, size}
//   mpiBroadcast(text: string): string       the text of rank 0
//   loadNccl(libraries: string[]): number    its version
//   tensorFlowLibrary(): string | null       a library of TensorFlow that is loaded
//   newNcclId(): string                      128 bytes in hexadecimal
//   addGroup(id, name, rank, size, parent, color, ncclId: string)
//   endGroups()
//   onCall(listener: (call: string) => void)  hears of each call before it starts; for the thread of the control plane
//   fail(message: string)
//   failure(): string | null
//   deviceError(): string | null             of work on a GPU that was queued and has failed since
#include "distributed.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../distributed/mpi.h"
#include "../distributed/nccl.h"
#include "../distributed/world.h"
#include "../tensorflow/c_api.h"
#include "js.h"

namespace flashmask {
namespace node {

namespace {

// ---- Arguments ----

constexpr size_t kMostArguments = 7;

class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info) : env_(env) {
    size_t count = kMostArguments;
    napi_get_cb_info(env, info, &count, values_, nullptr, nullptr);
  }

  napi_value operator[](size_t index) const { return values_[index]; }

  std::string Text(size_t index) const { return TextOf(values_[index]); }

  int Int(size_t index) const {
    int32_t number = 0;
    napi_get_value_int32(env_, values_[index], &number);
    return number;
  }

  std::vector<std::string> Texts(size_t index) const {
    uint32_t length = 0;
    napi_get_array_length(env_, values_[index], &length);
    std::vector<std::string> texts;
    for (uint32_t i = 0; i < length; i++) {
      napi_value element = nullptr;
      napi_get_element(env_, values_[index], i, &element);
      texts.push_back(TextOf(element));
    }
    return texts;
  }

 private:
  std::string TextOf(napi_value value) const {
    size_t length = 0;
    napi_get_value_string_utf8(env_, value, nullptr, 0, &length);
    std::string text(length, '\0');
    napi_get_value_string_utf8(env_, value, &text[0], length + 1, &length);
    return text;
  }

  napi_env env_;
  napi_value values_[kMostArguments] = {};
};

std::string ToHex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return text;
}

std::string FromHex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// ---- Functions ----

using Body = napi_value (*)(const Js&, const Arguments&);

// A function whose C++ exceptions are thrown in JavaScript.
template <Body kBody>
napi_value Wrapped(napi_env env, napi_callback_info info) {
  try {
    return kBody(Js(env), Arguments(env, info));
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
    return nullptr;
  }
}

napi_value StartMpi(const Js& js, const Arguments& arguments) {
  const distributed::MpiWorld world = distributed::StartMpi(arguments.Texts(0));
  napi_value result = js.Object();
  js.Set(result, "library", js.String(world.library));
  js.Set(result, "rank", js.Number(world.rank));
  js.Set(result, "size", js.Number(world.size));
  return result;
}

napi_value MpiBroadcast(const Js& js, const Arguments& arguments) {
  return js.String(distributed::MpiBroadcast(arguments.Text(0)));
}

napi_value LoadNccl(const Js& js, const Arguments& arguments) {
  return js.Number(distributed::LoadNccl(arguments.Texts(0)));
}

napi_value TensorFlowLibrary(const Js& js, const Arguments&) { return js.StringOrNull(tensorflow::LoadedTensorFlow()); }

napi_value NewNcclId(const Js& js, const Arguments&) { return js.String(ToHex(distributed::NewNcclId())); }

napi_value AddGroup(const Js&, const Arguments& arguments) {
  distributed::AddGroup({arguments.Int(0), arguments.Text(1), arguments.Int(2), arguments.Int(3), arguments.Int(4),
                         arguments.Int(5), FromHex(arguments.Text(6))});
  return nullptr;
}

napi_value EndGroups(const Js&, const Arguments&) {
  distributed::EndGroups();
  return nullptr;
}

napi_value Fail(const Js&, const Arguments& arguments) {
  distributed::Fail(arguments.Text(0));
  return nullptr;
}

napi_value Failure(const Js& js, const Arguments&) { return js.StringOrNull(distributed::Failure()); }

napi_value DeviceError(const Js& js, const Arguments&) { return js.StringOrNull(distributed::DeviceError()); }

// ---- Calls, told to JavaScript ----

void TellCall(napi_env env, napi_value listener, void*, void* data) {
  const std::unique_ptr<std::string> call(static_cast<std::string*>(data));
  if (!env) return;
  napi_value undefined = nullptr;
  napi_get_undefined(env, &undefined);
  napi_value argument = Js(env).String(*call);
  napi_call_function(env, undefined, listener, 1, &argument, nullptr);
}

// At the end of the thread its function must not be called any more.
void StopListening(napi_env, void*, void*) { distributed::ListenToCalls(nullptr); }

napi_value OnCall(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info);
  napi_threadsafe_function function = nullptr;
  const napi_value name = Js(env).String("tfjs-flashmask calls");
  if (napi_create_threadsafe_function(env, arguments[0], nullptr, name, 0, 1, nullptr, StopListening, nullptr, TellCall,
                                      &function) != napi_ok) {
    napi_throw_error(env, nullptr, "the listener must be a function");
    return nullptr;
  }
  // It does not keep the thread alive.
  napi_unref_threadsafe_function(env, function);
  distributed::ListenToCalls([function](const std::string& call) {
    auto data = std::make_unique<std::string>(call);
    if (napi_call_threadsafe_function(function, data.get(), napi_tsfn_nonblocking) == napi_ok) data.release();
  });
  return nullptr;
}

}  // namespace

void ExportDistributed(napi_env env, napi_value exports) {
  Export(env, exports, "startMpi", Wrapped<StartMpi>);
  Export(env, exports, "mpiBroadcast", Wrapped<MpiBroadcast>);
  Export(env, exports, "loadNccl", Wrapped<LoadNccl>);
  Export(env, exports, "tensorFlowLibrary", Wrapped<TensorFlowLibrary>);
  Export(env, exports, "newNcclId", Wrapped<NewNcclId>);
  Export(env, exports, "addGroup", Wrapped<AddGroup>);
  Export(env, exports, "endGroups", Wrapped<EndGroups>);
  Export(env, exports, "onCall", OnCall);
  Export(env, exports, "fail", Wrapped<Fail>);
  Export(env, exports, "failure", Wrapped<Failure>);
  Export(env, exports, "deviceError", Wrapped<DeviceError>);
}

}  // namespace node
}  // namespace flashmask
