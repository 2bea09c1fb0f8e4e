// JavaScript values from C++.
#pragma once

#include <node_api.h>

#include <string>

namespace flashmask {
namespace node {

// Makes JavaScript values. A failing call leaves an exception pending or a null value; neither needs a reaction here.
class Js {
 public:
  explicit Js(napi_env env) : env_(env) {}

  napi_value String(const std::string& text) const {
    napi_value value = nullptr;
    napi_create_string_utf8(env_, text.c_str(), text.size(), &value);
    return value;
  }
  // Null for an empty text.
  napi_value StringOrNull(const std::string& text) const {
    if (!text.empty()) return String(text);
    napi_value value = nullptr;
    napi_get_null(env_, &value);
    return value;
  }
  napi_value Number(double number) const {
    napi_value value = nullptr;
    napi_create_double(env_, number, &value);
    return value;
  }
  napi_value Bool(bool truth) const {
    napi_value value = nullptr;
    napi_get_boolean(env_, truth, &value);
    return value;
  }
  napi_value Object() const {
    napi_value value = nullptr;
    napi_create_object(env_, &value);
    return value;
  }
  napi_value Array() const {
    napi_value value = nullptr;
    napi_create_array(env_, &value);
    return value;
  }
  void Set(napi_value object, const char* name, napi_value value) const {
    napi_set_named_property(env_, object, name, value);
  }
  void Push(napi_value array, napi_value value) const {
    uint32_t length = 0;
    napi_get_array_length(env_, array, &length);
    napi_set_element(env_, array, length, value);
  }

 private:
  napi_env env_;
};

inline void Export(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function = nullptr;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

}  // namespace node
}  // namespace flashmask
