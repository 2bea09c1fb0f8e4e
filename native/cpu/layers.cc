// The layers around the attention: which thread does which part.
#include "../layers.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace flashmask {
namespace cpu {
namespace {

// Numbers of one item. Fewer are done before another thread has woken up. A multiple of the lanes of any vector.
constexpr int64_t kItem = 16384;
// Columns of an item of gammaGrad: a cache line.
constexpr int64_t kColumns = 16;

// Calls kernel(layer, begin, end) for parts of `count` rows, columns or elements of which each has `width` numbers.
template <class Layer>
void RunParts(const Layer& layer, void (*kernel)(const Layer&, int64_t, int64_t), int64_t count, int64_t width,
              int64_t part, int threads) {
  const int used = count * width <= kItem ? 1 : ThreadCount(threads);
  ParallelFor(used, (count + part - 1) / part,
              [&](int64_t item, int) { kernel(layer, item * part, std::min(count, (item + 1) * part)); });
}

int64_t RowsOfItem(int64_t width) { return std::max<int64_t>(1, kItem / width); }

}  // namespace

void Run(const RmsNorm& layer, int threads) {
  RunParts(layer, SelectedKernels().rmsNorm, layer.rows, layer.channels, RowsOfItem(layer.channels), threads);
}

void Run(const RmsNormGrad& layer, int threads) {
  RunParts(layer, SelectedKernels().rmsNormGrad, layer.rows, layer.channels, RowsOfItem(layer.channels), threads);
}

void Run(const RmsNormGammaGrad& layer, int threads) {
  RunParts(layer, SelectedKernels().rmsNormGammaGrad, layer.channels, layer.rows, kColumns, threads);
}

void Run(const Rotation& layer, int threads) {
  const int64_t width = layer.heads * layer.headSize;
  RunParts(layer, SelectedKernels().rotation, layer.tokens, width, RowsOfItem(width), threads);
}

void Run(const GatedUnit& layer, int threads) {
  RunParts(layer, SelectedKernels().gatedUnit, layer.count, 1, kItem, threads);
}

void Run(const GatedUnitGrad& layer, int threads) {
  RunParts(layer, SelectedKernels().gatedUnitGrad, layer.count, 1, kItem, threads);
}

void Run(const AdamW& layer, int threads) { RunParts(layer, SelectedKernels().adamw, layer.count, 1, kItem, threads); }

}  // namespace cpu
}  // namespace flashmask
