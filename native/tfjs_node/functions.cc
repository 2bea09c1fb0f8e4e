// tfjs-node's binding with more functions, which make TensorFlow functions of recorded operations and run them.
// setup-node compiles this file in place of tfjs-node's tfjs_binding.cc, which it includes unchanged:
//
//   addFunction(name: string, graph: Uint8Array, inputs: string[], outputs: string[], xla: boolean)
//   runFunction(name: string, inputs: number[], outputs: number): number[]    ids of tensors
//   waitForFunctions()                        throws if a function failed that has run since the last runFunction
//   removeFunction(name: string)
//   opDefinition(name: string): Uint8Array    an OpDef message: the attributes that operations infer from their inputs
//
// runFunction returns at once; a thread of TensorFlow runs the functions in the order of the calls. What reads a tensor
// waits for it. If a function fails, reading its outputs throws the error.

#include <node_api.h>

// The binding registers itself. Here it must not: the module below does, after it has added to the exports.
#undef NAPI_MODULE
#define NAPI_MODULE(name, init)
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/eager/c_api.h"
#include "tensorflow/c/eager/c_api_experimental.h"
#include "tfjs_binding.cc"

namespace flashmask {

using tfnodejs::TFJSBackend;

// The backend keeps its context and its tensors private. An explicit instantiation may name private members.
template <auto Context, auto Handles, auto Insert>
struct Private {
  friend TFE_Context* ContextOf(TFJSBackend* backend) { return backend->*Context; }
  friend auto& HandlesOf(TFJSBackend* backend) { return backend->*Handles; }
  friend int32_t InsertHandle(TFJSBackend* backend, TFE_TensorHandle* handle) { return (backend->*Insert)(handle); }
};
TFE_Context* ContextOf(TFJSBackend* backend);
auto& HandlesOf(TFJSBackend* backend);
int32_t InsertHandle(TFJSBackend* backend, TFE_TensorHandle* handle);
template struct Private<&TFJSBackend::tfe_context_, &TFJSBackend::tfe_handle_map_, &TFJSBackend::InsertHandle>;

struct StatusDeleter {
  void operator()(TF_Status* status) const { TF_DeleteStatus(status); }
};
struct GraphDeleter {
  void operator()(TF_Graph* graph) const { TF_DeleteGraph(graph); }
};
struct FunctionDeleter {
  void operator()(TF_Function* function) const { TF_DeleteFunction(function); }
};
struct OpDeleter {
  void operator()(TFE_Op* op) const { TFE_DeleteOp(op); }
};
struct ExecutorDeleter {
  void operator()(TFE_Executor* executor) const { TFE_DeleteExecutor(executor); }
};
using Op = std::unique_ptr<TFE_Op, OpDeleter>;
using Executor = std::unique_ptr<TFE_Executor, ExecutorDeleter>;
using Status = std::unique_ptr<TF_Status, StatusDeleter>;
using Graph = std::unique_ptr<TF_Graph, GraphDeleter>;
using Function = std::unique_ptr<TF_Function, FunctionDeleter>;

bool Ok(const Status& status) { return TF_GetCode(status.get()) == TF_OK; }

std::string TextOf(napi_env env, napi_value value) {
  size_t length = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  std::string text(length, '\0');
  napi_get_value_string_utf8(env, value, &text[0], length + 1, &length);
  return text;
}

// "name:2" as an output of a node of the graph.
TF_Output OutputOf(TF_Graph* graph, const std::string& text) {
  const size_t colon = text.rfind(':');
  return {TF_GraphOperationByName(graph, text.substr(0, colon).c_str()), std::stoi(text.substr(colon + 1))};
}

// The AttrValue `b: true`.
const char kTrue[] = {0x28, 0x01};

// Makes the function; the status says what is wrong with the graph.
Function MakeFunction(const std::string& name, const void* bytes, size_t length, const std::vector<std::string>& inputs,
                      const std::vector<std::string>& outputs, bool xla, const Status& status) {
  Graph graph(TF_NewGraph());
  TF_Buffer* definition = TF_NewBufferFromString(bytes, length);
  TF_ImportGraphDefOptions* options = TF_NewImportGraphDefOptions();
  TF_GraphImportGraphDef(graph.get(), definition, options, status.get());
  TF_DeleteImportGraphDefOptions(options);
  TF_DeleteBuffer(definition);
  if (!Ok(status)) return nullptr;
  std::vector<TF_Output> from, to;
  for (const std::string& input : inputs) from.push_back(OutputOf(graph.get(), input));
  for (const std::string& output : outputs) to.push_back(OutputOf(graph.get(), output));
  Function function(TF_GraphToFunction(graph.get(), name.c_str(), /*append_hash_to_fn_name=*/0, /*num_opers=*/-1,
                                       /*opers=*/nullptr, static_cast<int>(from.size()), from.data(),
                                       static_cast<int>(to.size()), to.data(), /*output_names=*/nullptr,
                                       /*opts=*/nullptr, /*description=*/nullptr, status.get()));
  if (Ok(status) && xla) {
    TF_FunctionSetAttrValueProto(function.get(), "_XlaMustCompile", kTrue, sizeof(kTrue), status.get());
  }
  return function;
}

std::vector<std::string> TextsOf(napi_env env, napi_value array) {
  uint32_t length = 0;
  napi_get_array_length(env, array, &length);
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < length; i++) {
    napi_value element;
    napi_get_element(env, array, i, &element);
    texts.push_back(TextOf(env, element));
  }
  return texts;
}

void ThrowUnlessOk(napi_env env, const Status& status) {
  if (!Ok(status)) napi_throw_error(env, nullptr, TF_Message(status.get()));
}

napi_value AddFunction(napi_env env, napi_callback_info info) {
  size_t count = 5;
  napi_value args[5];
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  void* bytes = nullptr;
  size_t length = 0;
  bool xla = false;
  if (count < 5 || napi_get_typedarray_info(env, args[1], nullptr, &length, &bytes, nullptr, nullptr) != napi_ok ||
      napi_get_value_bool(env, args[4], &xla) != napi_ok) {
    napi_throw_type_error(env, nullptr, "addFunction(name, graph: Uint8Array, inputs, outputs, xla: boolean)");
    return nullptr;
  }
  TFJSBackend* backend = tfnodejs::GetTFJSBackend(env);
  if (backend == nullptr) return nullptr;
  Status status(TF_NewStatus());
  Function function =
      MakeFunction(TextOf(env, args[0]), bytes, length, TextsOf(env, args[2]), TextsOf(env, args[3]), xla, status);
  if (Ok(status)) TFE_ContextAddFunction(ContextOf(backend), function.get(), status.get());
  ThrowUnlessOk(env, status);
  return nullptr;
}

// The only argument of a function, a text.
std::string NameOf(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value name;
  napi_get_cb_info(env, info, &count, &name, nullptr, nullptr);
  return TextOf(env, name);
}

// Calls that may wait for the thread. More block the caller, so that their inputs do not fill the memory.
constexpr int kMostWaiting = 1000;

// What runs the functions of an environment (a thread of Node), one after another.
struct Runner {
  Executor executor;
  // Whether an error was thrown that may be a function's, since the last call.
  bool threw = false;
};

// Never destroyed: at exit a thread may still run.
std::map<napi_env, Runner>& runners = *new std::map<napi_env, Runner>;
// Environments are threads, which share the map.
std::mutex runnersMutex;

// The runner of an environment; null if it has run no function.
Runner* FindRunner(napi_env env) {
  const std::lock_guard<std::mutex> lock(runnersMutex);
  const auto found = runners.find(env);
  return found == runners.end() ? nullptr : &found->second;
}

// Waits until all functions of the environment ran, or one failed.
Status WaitFor(napi_env env) {
  Status status(TF_NewStatus());
  if (const Runner* runner = FindRunner(env)) TFE_ExecutorWaitForAllPendingNodes(runner->executor.get(), status.get());
  return status;
}

// The environment's end deletes the context, which the executor uses.
void EndRunner(void* ended) {
  const auto env = static_cast<napi_env>(ended);
  WaitFor(env);
  const std::lock_guard<std::mutex> lock(runnersMutex);
  runners.erase(env);
}

Runner& RunnerOf(napi_env env) {
  if (Runner* runner = FindRunner(env)) return *runner;
  Executor executor(TFE_NewExecutor(/*is_async=*/true, /*enable_streaming_enqueue=*/false, kMostWaiting));
  napi_add_env_cleanup_hook(env, EndRunner, env);
  const std::lock_guard<std::mutex> lock(runnersMutex);
  return runners.emplace(env, Runner{std::move(executor)}).first->second;
}

// The executor, ready for the next function. After an error it would refuse all work; the outputs of what failed keep
// the error. They have it a moment before the executor does. So after one was thrown, the executor must end first, or
// it would discard the next function for it.
TFE_Executor* ReadyExecutor(napi_env env) {
  Runner& runner = RunnerOf(env);
  if (runner.threw) WaitFor(env);
  runner.threw = false;
  TFE_ExecutorClearError(runner.executor.get());
  return runner.executor.get();
}

// A function of the binding that throws the error of a function whose outputs it reads.
template <napi_value (*Read)(napi_env, napi_callback_info)>
napi_value Reading(napi_env env, napi_callback_info info) {
  const napi_value result = Read(env, info);
  bool threw = false;
  napi_is_exception_pending(env, &threw);
  if (threw) {
    if (Runner* runner = FindRunner(env)) runner->threw = true;
  }
  return result;
}

// Makes the operation for an executor: an operation takes the one that its thread has at the time.
Op NewOp(TFE_Context* context, const std::string& name, TFE_Executor* executor, const Status& status) {
  const Executor before(TFE_ContextGetExecutorForThread(context));
  TFE_ContextSetExecutorForThread(context, executor);
  Op op(TFE_NewOp(context, name.c_str(), status.get()));
  TFE_ContextSetExecutorForThread(context, before.get());
  return op;
}

void AddInputs(napi_env env, TFJSBackend* backend, napi_value ids, TFE_Op* op, const Status& status) {
  const auto& handles = HandlesOf(backend);
  uint32_t count = 0;
  napi_get_array_length(env, ids, &count);
  for (uint32_t i = 0; i < count && Ok(status); i++) {
    napi_value element;
    int32_t id = -1;
    napi_get_element(env, ids, i, &element);
    napi_get_value_int32(env, element, &id);
    const auto found = handles.find(id);
    if (found == handles.end()) {
      TF_SetStatus(status.get(), TF_INVALID_ARGUMENT, ("no tensor has the id " + std::to_string(id)).c_str());
    } else {
      TFE_OpAddInput(op, found->second, status.get());
    }
  }
}

napi_value RunFunction(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value args[3];
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  int32_t wanted = 0;
  if (count < 3 || napi_get_value_int32(env, args[2], &wanted) != napi_ok) {
    napi_throw_type_error(env, nullptr, "runFunction(name, inputs: number[], outputs: number)");
    return nullptr;
  }
  TFJSBackend* backend = tfnodejs::GetTFJSBackend(env);
  if (backend == nullptr) return nullptr;
  Status status(TF_NewStatus());
  const Op op = NewOp(ContextOf(backend), TextOf(env, args[0]), ReadyExecutor(env), status);
  if (Ok(status)) AddInputs(env, backend, args[1], op.get(), status);
  std::vector<TFE_TensorHandle*> outputs(wanted, nullptr);
  if (Ok(status)) TFE_Execute(op.get(), outputs.data(), &wanted, status.get());
  ThrowUnlessOk(env, status);
  if (!Ok(status)) return nullptr;
  napi_value ids;
  napi_create_array_with_length(env, wanted, &ids);
  for (int32_t i = 0; i < wanted; i++) {
    napi_value id;
    napi_create_int32(env, InsertHandle(backend, outputs[i]), &id);
    napi_set_element(env, ids, i, id);
  }
  return ids;
}

napi_value WaitForFunctions(napi_env env, napi_callback_info) {
  ThrowUnlessOk(env, WaitFor(env));
  return nullptr;
}

napi_value RemoveFunction(napi_env env, napi_callback_info info) {
  TFJSBackend* backend = tfnodejs::GetTFJSBackend(env);
  if (backend == nullptr) return nullptr;
  WaitFor(env);
  Status status(TF_NewStatus());
  TFE_ContextRemoveFunction(ContextOf(backend), NameOf(env, info).c_str(), status.get());
  ThrowUnlessOk(env, status);
  return nullptr;
}

napi_value OpDefinition(napi_env env, napi_callback_info info) {
  Status status(TF_NewStatus());
  Graph graph(TF_NewGraph());
  TF_Buffer* definition = TF_NewBuffer();
  TF_GraphGetOpDef(graph.get(), NameOf(env, info).c_str(), definition, status.get());
  ThrowUnlessOk(env, status);
  napi_value result = nullptr;
  if (Ok(status)) {
    void* bytes = nullptr;
    napi_value buffer;
    napi_create_arraybuffer(env, definition->length, &bytes, &buffer);
    memcpy(bytes, definition->data, definition->length);
    napi_create_typedarray(env, napi_uint8_array, definition->length, buffer, 0, &result);
  }
  TF_DeleteBuffer(definition);
  return result;
}

// The binding defines properties that cannot be replaced. Copies of them can.
void CopyProperties(napi_env env, napi_value from, napi_value to) {
  napi_value names;
  uint32_t count = 0;
  napi_get_all_property_names(env, from, napi_key_own_only, napi_key_all_properties, napi_key_numbers_to_strings,
                              &names);
  napi_get_array_length(env, names, &count);
  for (uint32_t i = 0; i < count; i++) {
    napi_value name, value;
    napi_get_element(env, names, i, &name);
    napi_get_property(env, from, name, &value);
    napi_set_property(env, to, name, value);
  }
}

napi_value Init(napi_env env, napi_value exports) {
  napi_value binding;
  napi_create_object(env, &binding);
  binding = tfnodejs::InitTFNodeJSBinding(env, binding);
  if (binding == nullptr) return nullptr;
  CopyProperties(env, binding, exports);
  const napi_property_descriptor more[] = {
      {"executeOp", nullptr, Reading<tfnodejs::ExecuteOp>, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"tensorDataSync", nullptr, Reading<tfnodejs::TensorDataSync>, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"runSavedModel", nullptr, Reading<tfnodejs::RunSavedModel>, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"addFunction", nullptr, AddFunction, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"runFunction", nullptr, RunFunction, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"waitForFunctions", nullptr, WaitForFunctions, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"removeFunction", nullptr, RemoveFunction, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"opDefinition", nullptr, OpDefinition, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  napi_define_properties(env, exports, sizeof(more) / sizeof(more[0]), more);
  return exports;
}

}  // namespace flashmask

NAPI_MODULE_INIT() { return flashmask::Init(env, exports); }
