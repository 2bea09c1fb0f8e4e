// Written by scripts/constants.ts from src/call/constants.ts, which says what each number means: change it there.
#pragma once

namespace flashmask {

constexpr int kHeadsInTurn = 8;
constexpr int kMapBlock = 32;
constexpr int kMaxHeadSize = 256;

}  // namespace flashmask
