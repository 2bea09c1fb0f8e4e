// Included in the anonymous namespace of an instruction set.

// e^x, accurate to about one unit in the last place, for x of at most 80. Returns 0 for -infinity and below -87, where
// results would be denormal, and NaN for NaN.
inline F Exp(F x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // exact products with whole numbers to 2^15
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kLow = -87.0f;
  // Adding this number rounds to a whole number n, and leaves n + 127 in the low bits of the sum.
  constexpr float kRound = 12582912.0f + 127.0f;
  const F biased = Fma(x, Set(kLog2E), Set(kRound));
  const F n = Sub(biased, Set(kRound));
  const F r = Fma(n, Set(-kLn2Low), Fma(n, Set(-kLn2High), x));
  // Minimax polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2], relative error 3e-9.
  F p = Fma(Set(1.3814539415761828e-3f), r, Set(8.36874544620514e-3f));
  p = Fma(p, r, Set(4.166838899254799e-2f));
  p = Fma(p, r, Set(1.666652113199234e-1f));
  p = Fma(p, r, Set(0.4999999403953552f));
  p = Fma(p, r, Set(1.0f));
  p = Fma(p, r, Set(1.0f));
  return Select(Less(x, Set(kLow)), Zero(), ScaleByPower(p, n, biased));
}
