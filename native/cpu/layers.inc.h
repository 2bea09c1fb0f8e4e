// Included in the anonymous namespace of an instruction set. The layers around the attention. Each function does the
// rows, columns or elements from `begin` to `end`.

// The next lanes of `left` numbers; zeros after them.
inline F LoadPart(const float* from, int64_t left) {
  if (left >= kLanes) return Load(from);
  float part[kLanes] = {};
  __builtin_memcpy(part, from, sizeof(float) * static_cast<size_t>(left));
  return Load(part);
}

inline void StorePart(float* to, F a, int64_t left) {
  if (left >= kLanes) {
    Store(to, a);
    return;
  }
  float part[kLanes];
  Store(part, a);
  __builtin_memcpy(to, part, sizeof(float) * static_cast<size_t>(left));
}

inline float SumOfLanes(F a) {
  float lanes[kLanes];
  Store(lanes, a);
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

void RunRmsNorm(const RmsNorm& layer, int64_t begin, int64_t end) {
  const int64_t channels = layer.channels;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = layer.x + row * channels;
    float* y = layer.y + row * channels;
    F squares = Zero();
    for (int64_t c = 0; c < channels; c += kLanes) {
      const F a = LoadPart(x + c, channels - c);
      squares = Fma(a, a, squares);
    }
    const float mean = SumOfLanes(squares) / static_cast<float>(channels);
    const float inverse = 1.0f / __builtin_sqrtf(mean + layer.epsilon);
    layer.inverse[row] = inverse;
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t left = channels - c;
      StorePart(y + c, Mul(Mul(LoadPart(x + c, left), Set(inverse)), LoadPart(layer.gamma + c, left)), left);
    }
  }
}

void RunRmsNormGrad(const RmsNormGrad& layer, int64_t begin, int64_t end) {
  const int64_t channels = layer.channels;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = layer.x + row * channels;
    const float* dy = layer.dy + row * channels;
    float* dx = layer.dx + row * channels;
    const F inverse = Set(layer.inverse[row]);
    F products = Zero();
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t left = channels - c;
      const F dUnit = Mul(LoadPart(dy + c, left), LoadPart(layer.gamma + c, left));
      products = Fma(dUnit, Mul(LoadPart(x + c, left), inverse), products);
    }
    const F mean = Set(SumOfLanes(products) / static_cast<float>(channels));
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t left = channels - c;
      const F unit = Mul(LoadPart(x + c, left), inverse);
      const F dUnit = Mul(LoadPart(dy + c, left), LoadPart(layer.gamma + c, left));
      StorePart(dx + c, Mul(Sub(dUnit, Mul(unit, mean)), inverse), left);
    }
  }
}

// The columns from `begin` to `end`, over all rows in their order.
void RunRmsNormGammaGrad(const RmsNormGammaGrad& layer, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; c += kLanes) {
    const int64_t left = end - c;
    F sum = Zero();
    for (int64_t row = 0; row < layer.rows; ++row) {
      const int64_t at = row * layer.channels + c;
      const F unit = Mul(LoadPart(layer.x + at, left), Set(layer.inverse[row]));
      sum = Fma(LoadPart(layer.dy + at, left), unit, sum);
    }
    StorePart(layer.dgamma + c, sum, left);
  }
}

void RunRotation(const Rotation& layer, int64_t begin, int64_t end) {
  const int64_t half = layer.headSize / 2;
  const F sign = Set(layer.back ? -1.0f : 1.0f);
  for (int64_t token = begin; token < end; ++token) {
    const float* cosines = layer.cosines + token * layer.headSize;
    const float* sines = layer.sines + token * layer.headSize;
    for (int64_t head = 0; head < layer.heads; ++head) {
      const int64_t at = (token * layer.heads + head) * layer.headSize;
      for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t left = half - i;
        const F first = LoadPart(layer.x + at + i, left);
        const F second = LoadPart(layer.x + at + half + i, left);
        const F sin1 = Mul(LoadPart(sines + i, left), sign);
        const F sin2 = Mul(LoadPart(sines + half + i, left), sign);
        StorePart(layer.y + at + i, Fma(first, LoadPart(cosines + i, left), Mul(second, sin1)), left);
        StorePart(layer.y + at + half + i, Fma(second, LoadPart(cosines + half + i, left), Mul(first, sin2)), left);
      }
    }
  }
}

// Below -80 the result is e^-80 instead of less.
inline F Sigmoid(F x) {
  const F negative = Sub(Zero(), x);
  const F bounded = Select(Less(Set(80.0f), negative), Set(80.0f), negative);
  return Div(Set(1.0f), Add(Set(1.0f), Exp(bounded)));
}

void RunGatedUnit(const GatedUnit& layer, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t left = end - i;
    const F gate = LoadPart(layer.gate + i, left);
    StorePart(layer.y + i, Mul(Mul(Sigmoid(gate), gate), LoadPart(layer.up + i, left)), left);
  }
}

void RunGatedUnitGrad(const GatedUnitGrad& layer, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t left = end - i;
    const F gate = LoadPart(layer.gate + i, left);
    const F dy = LoadPart(layer.dy + i, left);
    const F sigmoid = Sigmoid(gate);
    const F silu = Mul(gate, sigmoid);
    // d silu / dx = sigmoid + silu (1 - sigmoid)
    const F slope = Fma(silu, Sub(Set(1.0f), sigmoid), sigmoid);
    StorePart(layer.dgate + i, Mul(Mul(dy, LoadPart(layer.up + i, left)), slope), left);
    StorePart(layer.dup + i, Mul(dy, silu), left);
  }
}

void RunAdamW(const AdamW& layer, int64_t begin, int64_t end) {
  const float rest = 1.0f - layer.beta1;
  const F shrink = Set(*layer.shrink * rest);
  const F square = Set((1.0f - layer.beta2) / (rest * rest));
  const F epsilon = Set(layer.factors[0]);
  const F rate = Set(layer.factors[1]);
  const F decay = Set(layer.decays ? layer.factors[2] : 1.0f);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t left = end - i;
    const F part = Mul(LoadPart(layer.gradient + i, left), shrink);
    const F m = Fma(LoadPart(layer.m + i, left), Set(layer.beta1), part);
    const F v = Fma(LoadPart(layer.v + i, left), Set(layer.beta2), Mul(Mul(part, part), square));
    float roots[kLanes];
    Store(roots, v);
    for (int lane = 0; lane < kLanes; ++lane) roots[lane] = __builtin_sqrtf(roots[lane]);
    const F move = Mul(Div(m, Add(Load(roots), epsilon)), rate);
    StorePart(layer.newM + i, m, left);
    StorePart(layer.newV + i, v, left);
    StorePart(layer.newValue + i, Sub(Mul(LoadPart(layer.value + i, left), decay), move), left);
  }
}
