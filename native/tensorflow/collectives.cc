// The ops of the collectives, and TensorFlow's kernels for them.
#include <algorithm>
#include <limits>
#include <string>

#include "../distributed/world.h"
#include "call.h"
#include "definition.h"
#include "ops.h"

namespace flashmask {
namespace tensorflow {

using distributed::Collective;

namespace {

// ---- Shapes of outputs ----

constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();

void LikeInput(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  shapes.SetOutput(0, shapes.Input(0));
}

// The C API gives no attributes to shape functions, and so no size of the group.
void OtherRows(ShapeInferenceContext* context, Status* status) {
  Shapes shapes(context, status);
  shapes.SetOutput(0, shapes.Concatenate(shapes.Unknown(), shapes.Slice(shapes.Input(0), 1, kEnd)));
}

const Specs kX = {"x: float"};
const Specs kY = {"y: float"};
const Specs kGroup = {"group: int >= 0"};

// Stateful, so that TensorFlow neither folds, joins nor drops calls, which the other members would miss.
const Definition kOps[] = {
    {"FlashMaskAllReduce", kX, kY, {"group: int >= 0", "max: bool = false"}, LikeInput, true},
    {"FlashMaskAllGather", kX, kY, kGroup, OtherRows, true},
    {"FlashMaskReduceScatter", kX, kY, kGroup, OtherRows, true},
    {"FlashMaskBroadcast", kX, kY, {"group: int >= 0", "root: int >= 0 = 0"}, LikeInput, true},
    // Counts are an input: TensorFlow keeps a kernel for every set of attributes that it has seen.
    {"FlashMaskAllToAll", {"x: float", "counts: int32"}, kY, kGroup, OtherRows, true},
};

// ---- Calls ----

struct Attributes {
  int64_t group = 0;
  bool max = false;
  int root = 0;
};

template <Collective::Kind kKind>
void* Create(OpKernelConstruction* construction) {
  const OwnStatus status;
  Attributes attributes;
  attributes.group = ReadInt(construction, "group", status);
  if (kKind == Collective::kAllReduce) attributes.max = ReadBool(construction, "max", status);
  if (kKind == Collective::kBroadcast) attributes.root = static_cast<int>(ReadInt(construction, "root", status));
  if (status.ok()) return new Attributes(attributes);
  api.OpKernelConstruction_Failure(construction, status.get());
  return nullptr;
}

void Delete(void* attributes) { delete static_cast<Attributes*>(attributes); }

constexpr const char* kName = "FlashMask collectives";

void Require(bool holds, const char* rule, const Shape& got) { RequireShape(holds, kName, rule, got); }

int64_t Sum(const std::vector<int64_t>& numbers) {
  int64_t sum = 0;
  for (const int64_t number : numbers) sum += number;
  return sum;
}

// Rows for and of each member, of the second input [2, size].
void ReadCounts(Call* call, int64_t size, Collective* collective) {
  const Shape shape = call->InputShape(1);
  Require(shape == Shape{2, size}, "counts must be [2, size]", shape);
  const auto* counts = static_cast<const int32_t*>(call->Input(1));
  collective->sends.assign(counts, counts + size);
  collective->receives.assign(counts + size, counts + 2 * size);
  for (int64_t i = 0; i < 2 * size; i++) Require(counts[i] >= 0, "counts must be at least 0", {counts[i]});
  Require(Sum(collective->sends) == collective->shape[0], "the rows that are sent must be those of x",
          collective->sends);
}

// The description of the call, and the shape of its output.
template <Collective::Kind kKind>
Collective Describe(Call* call, const Attributes& attributes, Shape* output) {
  const int64_t size = distributed::GroupSize(attributes.group);
  Collective collective = {kKind, call->InputShape(0), attributes.max, attributes.root, {}, {}};
  const Shape& shape = collective.shape;
  *output = shape;
  if (kKind == Collective::kAllReduce) return collective;
  if (kKind == Collective::kBroadcast) {
    Require(attributes.root < size, "root must be a rank of the group", {attributes.root});
    return collective;
  }
  Require(!shape.empty(), "x must have a first axis", shape);
  if (kKind == Collective::kAllGather) (*output)[0] *= size;
  if (kKind == Collective::kReduceScatter) {
    Require(shape[0] % size == 0, "the first axis must be a multiple of the group's size", shape);
    (*output)[0] /= size;
  }
  if (kKind == Collective::kAllToAll) {
    ReadCounts(call, size, &collective);
    (*output)[0] = Sum(collective.receives);
  }
  return collective;
}

struct Cpu {
  static constexpr const char* kDevice = "CPU";

  static void Run(int64_t group, const Collective& collective, const float* in, float* out, const void*) {
    distributed::RunOnHost(group, collective, in, out);
  }
};

#ifdef FLASHMASK_CUDA
struct Gpu {
  static constexpr const char* kDevice = "GPU";

  static void Run(int64_t group, const Collective& collective, const float* in, float* out, const void* memory) {
    // A member that neither gives nor gets anything needs no stream.
    if (!memory) return distributed::RunOnDevice(group, collective, in, out, nullptr);
    cuda::OrderedStream ordered(memory);
    CheckOrder(ordered);
    try {
      distributed::RunOnDevice(group, collective, in, out, ordered.stream());
    } catch (...) {
      ordered.Finish();
      throw;
    }
    ordered.Finish();
    CheckOrder(ordered);
  }
};
#endif

template <Collective::Kind kKind, typename Device>
void Compute(void* kernel, OpKernelContext* context) {
  Guard(context, kName, [&](Call* call) {
    const auto& attributes = *static_cast<const Attributes*>(kernel);
    Shape shape;
    const Collective collective = Describe<kKind>(call, attributes, &shape);
    const auto* in = static_cast<const float*>(call->Input(0));
    float* out = call->Output(0, shape);
    // Of a tensor with elements: others have none.
    const bool gives = collective.Elements() > 0;
    const bool gets = std::find(shape.begin(), shape.end(), 0) == shape.end();
    const void* memory = gives ? in : gets ? out : nullptr;
    try {
      Device::Run(attributes.group, collective, in, out, memory);
    } catch (const distributed::Interrupted& interrupted) {
      // Others may still read from and write to its memory.
      call->Abandon();
      throw Failure{kInternal, interrupted.what()};
    }
  });
}

template <Collective::Kind kKind, typename Device>
std::string Add(const char* op, const char* hostInput = nullptr) {
  return RegisterKernel(op, Device::kDevice, {Create<kKind>, Compute<kKind, Device>, Delete}, hostInput);
}

template <class Device>
std::string RegisterDevice() {
  std::string error = Add<Collective::kAllReduce, Device>("FlashMaskAllReduce");
  if (error.empty()) error = Add<Collective::kAllGather, Device>("FlashMaskAllGather");
  if (error.empty()) error = Add<Collective::kReduceScatter, Device>("FlashMaskReduceScatter");
  if (error.empty()) error = Add<Collective::kBroadcast, Device>("FlashMaskBroadcast");
  return error.empty() ? Add<Collective::kAllToAll, Device>("FlashMaskAllToAll", "counts") : error;
}

}  // namespace

std::string RegisterCollectives() {
  std::string error = RegisterOps(kOps);
  if (error.empty()) error = RegisterDevice<Cpu>();
#ifdef FLASHMASK_CUDA
  if (error.empty()) error = RegisterDevice<Gpu>();
#endif
  return error;
}

}  // namespace tensorflow
}  // namespace flashmask
