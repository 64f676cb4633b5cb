// Brief elements: every bf16 number with both marks comes back as it was, or as near as subnormal
// numbers are, or as no number; every word is one of these; floats are rounded once. Prints what is
// wrong and exits with 1.
#include <cstdio>
#include <random>

#include "brief.cuh"

using mpk::bf16, mpk::Brief, mpk::u32;

int wrong = 0;
void expect(bool right, const char* what, double value, double found) {
  if (right || ++wrong > 10) return;
  std::printf("%s: %g became %g\n", what, value, found);
}

u32 bits_of(float v) { return __float_as_uint(v); }

// What a word holds, in the lower half of a pair and in the upper.
float value_of(u32 word) {
  const u32 low = Brief<bf16>::pair(word | 0x12340000), high = Brief<bf16>::pair(word << 16 | 0x1234);
  const float a = __uint_as_float(low << 16), b = __uint_as_float(high & 0xffff0000u);
  expect(bits_of(a) == bits_of(b), "halves differ", a, b);
  return a;
}

// The number that is to come back: of what is below 2^-62 the nearest multiple of 2^-69, the even one
// of two.
float kept(float v) {
  if (!(std::abs(v) < 0x1p64f)) return NAN;
  if (std::abs(v) >= 0x1p-62f) return mpk::to_float(mpk::convert<bf16>(v));
  const double unit = std::ldexp(1.0, -69);
  return std::copysign(float(std::nearbyint(std::abs(v) / unit) * unit), v);
}

void check(float v) {
  const float wanted = kept(v);
  for (u32 tag : {6u, 7u}) {
    const u32 word = Brief<bf16>::of(v, tag);
    expect((word >> 14 & 1) == tag % 2, "mark", v, word);
    const float found = value_of(word);
    // What is rounded up to 2^64 does not fit either.
    const bool is_none = wanted != wanted || std::abs(wanted) >= 0x1p64f;
    expect(is_none ? found != found : bits_of(found) == bits_of(wanted), "number", v, found);
  }
}

int main() {
  for (u32 bits = 0; bits < 65536; ++bits) check(__uint_as_float(bits << 16));
  for (u32 word = 0; word < 65536; ++word) {
    const float a = value_of(word & 0xbfff), b = value_of(word | 0x4000);
    expect((a != a && b != b) || bits_of(a) == bits_of(b), "a mark changes the number", a, b);
    expect((a != a) == ((word & 0x3fff) >= 0x3f80), "word", word, a);
    // Written again it is the same word, unless it is no number.
    if (a == a) expect(Brief<bf16>::of(a, word >> 14 & 1) == word, "again", word, a);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 1000000; ++i) {
    const float v = __uint_as_float(random());
    if (!(std::abs(v) < 0x1p-62f)) check(v);
    const u32 word = Brief<float>::of(v, i);
    expect(word % 2 == u32(i) % 2 && word / 2 == bits_of(v) / 2, "float", v, word);
  }
  if (wrong > 0) std::printf("%d wrong\n", wrong);
  return wrong > 0;
}
