#include "c_api.h"

#include <dlfcn.h>

#include <cstring>
#include <vector>

#ifdef __APPLE__
#include <mach-o/dyld.h>
#else
#include <link.h>
#endif

namespace flashmask {
namespace tensorflow {

Api api;

namespace {

// Whether a path is a TensorFlow library: libtensorflow.so.2 and libtensorflow_framework.so.2 of the C library,
// libtensorflow_cc.so.2 of the Python package, and so on.
bool IsTensorFlow(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return std::strncmp(slash ? slash + 1 : path, "libtensorflow", std::strlen("libtensorflow")) == 0;
}

// Paths of the TensorFlow libraries in this process. Node loads an addon and the libraries that it depends on outside
// the global scope, so dlsym(RTLD_DEFAULT) does not see them.
std::vector<std::string> LoadedLibraries() {
  std::vector<std::string> paths;
#ifdef __APPLE__
  for (uint32_t i = 0; i < _dyld_image_count(); i++) {
    if (IsTensorFlow(_dyld_get_image_name(i))) paths.push_back(_dyld_get_image_name(i));
  }
#else
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* found) {
        if (IsTensorFlow(info->dlpi_name)) static_cast<std::vector<std::string>*>(found)->push_back(info->dlpi_name);
        return 0;
      },
      &paths);
#endif
  return paths;
}

// Handles to search for symbols: all loaded TensorFlow libraries, and the global scope.
std::vector<void*> Handles(const std::vector<std::string>& paths) {
  std::vector<void*> handles;
  for (const std::string& path : paths) {
    // Never closed, because the ops stay registered as long as the process runs.
    if (void* handle = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD)) handles.push_back(handle);
  }
  handles.push_back(RTLD_DEFAULT);
  return handles;
}

void* Find(const std::vector<void*>& handles, const char* name) {
  for (void* handle : handles) {
    if (void* symbol = dlsym(handle, name)) return symbol;
  }
  return nullptr;
}

std::string Join(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : ", ") + word;
  return all;
}

}  // namespace

std::string LoadedTensorFlow() {
  const std::vector<std::string> paths = LoadedLibraries();
  return paths.empty() ? "" : paths.front();
}

std::string LoadApi() {
  const std::vector<std::string> paths = LoadedLibraries();
  const std::vector<void*> handles = Handles(paths);
  Api found;
  std::vector<std::string> missing;
  // dlsym gives an object pointer; POSIX guarantees that it holds a function's address.
#define FLASHMASK_TF_FIND(result, name, parameters)              \
  if (void* symbol = Find(handles, "TF_" #name)) {               \
    found.name = reinterpret_cast<decltype(found.name)>(symbol); \
  } else {                                                       \
    missing.push_back("TF_" #name);                              \
  }
  FLASHMASK_TF_FUNCTIONS(FLASHMASK_TF_FIND)
#undef FLASHMASK_TF_FIND
  if (missing.empty()) {
    api = found;
    return "";
  }
  if (paths.empty() && !found.Version) {
    return "libtensorflow must be loaded before the addon, got none. Import @tensorflow/tfjs-node first.";
  }
  const std::string version = found.Version ? found.Version() : "of unknown version";
  return "TensorFlow " + version + " (" + Join(paths) +
         ") must have the kernel functions of its C API, as it has since 2.9; missing: " + Join(missing) +
         ". Run `npx tfjs-flashmask setup-node`.";
}

}  // namespace tensorflow
}  // namespace flashmask
