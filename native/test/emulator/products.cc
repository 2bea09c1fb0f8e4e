#include "products.h"

#include <algorithm>
#include <limits>

#include "block.h"

namespace flashmask::emulator {
namespace {

constexpr int kDepth = 16;  // of all products
constexpr int kMostColumns = 256;

float FloatOf(Number number, uint16_t bits) {
  return number == Number::kHalf ? FloatOfHalf(bits) : FloatOfBfloat16(bits);
}

// Where a lane has element i of a block of 16 x 8 accumulators.
int RowOf(int lane, int i) { return lane / 4 + i / 2 * 8; }
int ColumnOf(int lane, int i) { return lane % 4 * 2 + i % 2; }

// ---- ldmatrix ----

struct MatrixRequest {
  uint32_t (&r)[4];
  uint32_t address;
};

template <bool kTransposed>
void LoadMatrices(const uint64_t* all) {
  const auto request = [&](int lane) { return reinterpret_cast<const MatrixRequest*>(all[lane]); };
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t rows[8][8];
    for (int row = 0; row < 8; ++row) {
      const uint32_t address = request(matrix * 8 + row)->address;
      if (address % 16 != 0) Fail("a row of ldmatrix is not aligned");
      std::memcpy(rows[row], SharedAt(address, 16), 16);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const int outer = lane / 4;
      const int inner = lane % 4 * 2;
      const uint32_t low = kTransposed ? rows[inner][outer] : rows[outer][inner];
      const uint32_t high = kTransposed ? rows[inner + 1][outer] : rows[outer][inner + 1];
      request(lane)->r[matrix] = low | high << 16;
    }
  }
}

// ---- Operands in registers ----

// A lane's part of a left operand of 16 x 16.
void ReadLeft(float (&left)[16][kDepth], int lane, const uint32_t (&a)[4], Number number) {
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i % 2 * 8;
    const int k = lane % 4 * 2 + i / 2 * 8;
    left[row][k] = FloatOf(number, static_cast<uint16_t>(a[i]));
    left[row][k + 1] = FloatOf(number, static_cast<uint16_t>(a[i] >> 16));
  }
}

// ---- mma ----

struct MmaRequest {
  float (&c)[4];
  const uint32_t (&a)[4];
  uint32_t b[2];
  Number number;
};

void MultiplyByWarp(const uint64_t* all) {
  float left[16][kDepth];
  float right[kDepth][8];
  float sum[16][8];
  const auto request = [&](int lane) { return reinterpret_cast<const MmaRequest*>(all[lane]); };
  for (int lane = 0; lane < kLanes; ++lane) {
    const MmaRequest& own = *request(lane);
    ReadLeft(left, lane, own.a, own.number);
    for (int i = 0; i < 2; ++i) {
      const int k = lane % 4 * 2 + i * 8;
      right[k][lane / 4] = FloatOf(own.number, static_cast<uint16_t>(own.b[i]));
      right[k + 1][lane / 4] = FloatOf(own.number, static_cast<uint16_t>(own.b[i] >> 16));
    }
    for (int i = 0; i < 4; ++i) sum[RowOf(lane, i)][ColumnOf(lane, i)] = own.c[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8; ++column) sum[row][column] += left[row][k] * right[k][column];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) request(lane)->c[i] = sum[RowOf(lane, i)][ColumnOf(lane, i)];
  }
}

float FloatOfTf32(uint32_t bits) { return OfBits<float>(bits & ~0x1fffu); }

void MultiplyTf32ByWarp(const uint64_t* all) {
  float left[16][8];
  float right[8][8];
  const auto request = [&](int lane) { return reinterpret_cast<const MmaRequest*>(all[lane]); };
  for (int lane = 0; lane < kLanes; ++lane) {
    const MmaRequest& own = *request(lane);
    for (int i = 0; i < 4; ++i) left[lane / 4 + i % 2 * 8][lane % 4 + i / 2 * 4] = FloatOfTf32(own.a[i]);
    for (int i = 0; i < 2; ++i) right[lane % 4 + i * 4][lane / 4] = FloatOfTf32(own.b[i]);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      for (int k = 0; k < 8; ++k) request(lane)->c[i] += left[RowOf(lane, i)][k] * right[k][ColumnOf(lane, i)];
    }
  }
}

// ---- Products by a warpgroup ----

// An operand in shared memory, as its descriptor tells.
class Operand {
 public:
  Operand(uint64_t descriptor, bool columns)
      : start_(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        leading_(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        stride_(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4),
        columns_(columns) {
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) Fail("an operand must have the swizzle of 128 bytes");
  }

  // Element `outer` of the operand's own side and `inner` of the side that is summed over.
  uint16_t At(int outer, int inner) const {
    const auto o = static_cast<uint32_t>(outer);
    const auto i = static_cast<uint32_t>(inner);
    const uint32_t place = columns_ ? start_ + o / 64 * leading_ + o % 64 * 2 + i / 8 * stride_ + i % 8 * 128
                                    : start_ + o / 8 * stride_ + o % 8 * 128 + i * 2;
    const uint32_t address = place ^ ((place >> 7 & 7) << 4);
    RequireFenced(address & ~3u, 4);
    uint16_t bits;
    std::memcpy(&bits, SharedAt(address, 2), 2);
    return bits;
  }

 private:
  uint32_t start_, leading_, stride_;
  bool columns_;
};

Thread& LaneOf(int lane) { return *block->threads[static_cast<size_t>(self->index / kLanes * kLanes + lane)]; }

Accumulators& AccumulatorsOf(Thread& thread, float* registers) {
  return *std::find_if(thread.accumulators.begin(), thread.accumulators.end(),
                       [&](const Accumulators& a) { return a.registers == registers; });
}

void ReadLeftOperand(float (&left)[16][kDepth], size_t number) {
  const Product& product = self->products[number];
  if (product.leftInRegisters) {
    for (int lane = 0; lane < kLanes; ++lane) ReadLeft(left, lane, LaneOf(lane).products[number].left, product.number);
    return;
  }
  const Operand operand(product.leftAt, product.leftColumns);
  const int first = self->index / kLanes % 4 * 16;
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) left[row][k] = FloatOf(product.number, operand.At(first + row, k));
  }
}

// The warp's part of a product: 16 of its 64 rows.
void Multiply(size_t number) {
  static float left[16][kDepth], right[kDepth][kMostColumns], sum[16][kMostColumns];
  const Product& product = self->products[number];
  ReadLeftOperand(left, number);
  const Operand operand(product.rightAt, product.rightColumns);
  for (int k = 0; k < kDepth; ++k) {
    for (int column = 0; column < product.columns; ++column) {
      right[k][column] = FloatOf(product.number, operand.At(column, k));
    }
  }
  const auto forElements = [&](auto act) {
    for (int lane = 0; lane < kLanes; ++lane) {
      Thread& thread = LaneOf(lane);
      std::vector<float>& values = AccumulatorsOf(thread, thread.products[number].accumulators).values;
      for (int i = 0; i < product.columns / 2; ++i) {
        act(values[static_cast<size_t>(i)], sum[RowOf(lane, i % 4)][i / 4 * 8 + ColumnOf(lane, i % 4)]);
      }
    }
  };
  forElements([&](float value, float& element) { element = product.adds ? value : 0; });
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < product.columns; ++column) sum[row][column] += left[row][k] * right[k][column];
    }
  }
  forElements([](float& value, float element) { value = element; });
}

// Gives accumulators without unfinished products back to the registers.
void ReturnAccumulators(Thread* thread) {
  auto& all = thread->accumulators;
  for (const Accumulators& a : all) {
    if (a.products == 0) std::copy(a.values.begin(), a.values.end(), a.registers);
  }
  all.erase(std::remove_if(all.begin(), all.end(), [](const Accumulators& a) { return a.products == 0; }), all.end());
}

// Ends the first `groups` groups of products of the warp.
void FinishGroups(size_t groups) {
  const size_t count = self->productGroups[groups - 1];
  for (size_t number = 0; number < count; ++number) Multiply(number);
  for (int lane = 0; lane < kLanes; ++lane) {
    Thread& thread = LaneOf(lane);
    for (size_t number = 0; number < count; ++number) {
      --AccumulatorsOf(thread, thread.products[number].accumulators).products;
    }
    ReturnAccumulators(&thread);
    thread.products.erase(thread.products.begin(), thread.products.begin() + static_cast<std::ptrdiff_t>(count));
    auto& ends = thread.productGroups;
    ends.erase(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(groups));
    for (size_t& end : ends) end -= count;
  }
}

void FinishProducts(const uint64_t* pending) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const Thread& thread = LaneOf(lane);
    const bool same = thread.products.size() == self->products.size() && thread.productGroups == self->productGroups;
    if (!same) Fail("lanes of a warp have started different products");
  }
  const size_t groups = self->productGroups.size();
  if (groups > *pending) FinishGroups(groups - *pending);
}

}  // namespace

void LoadMatrix(uint32_t (&r)[4], uint32_t address, bool transposed) {
  const MatrixRequest request = {r, address};
  Meet("ldmatrix", reinterpret_cast<uint64_t>(&request), transposed ? LoadMatrices<true> : LoadMatrices<false>);
}

void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Number number) {
  const MmaRequest request = {c, a, {b0, b1}, number};
  Meet("mma", reinterpret_cast<uint64_t>(&request), MultiplyByWarp);
}

void MmaTf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const MmaRequest request = {c, a, {b0, b1}, {}};
  Meet("mma of TF32", reinterpret_cast<uint64_t>(&request), MultiplyTf32ByWarp);
}

void StartProduct(const Product& product) {
  float* registers = product.accumulators;
  const auto count = static_cast<size_t>(product.columns / 2);
  auto& all = self->accumulators;
  const bool known =
      std::any_of(all.begin(), all.end(), [&](const Accumulators& a) { return a.registers == registers; });
  if (!known) all.push_back({registers, {registers, registers + count}, 0});
  ++AccumulatorsOf(*self, registers).products;
  std::fill(registers, registers + count, std::numeric_limits<float>::quiet_NaN());
  self->products.push_back(product);
}

void CommitProducts() { self->productGroups.push_back(self->products.size()); }

void WaitProducts(int pending) {
  if (LeavesOut(Order::kWaitProducts, __builtin_return_address(0))) return;
  Meet("a wait for products", static_cast<uint64_t>(pending), FinishProducts);
}

}  // namespace flashmask::emulator
