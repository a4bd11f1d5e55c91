// asrcompress-cpp BUNDLE FILE.wav...    one line of text per file
// asrcompress-cpp BUNDLE --self-test    the bundle's golden recordings on this device
//
// Exit codes as of the asrcompress command: 0 done, 2 wrong usage, 3 an error, 4 a failed self-test.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <limits>

#include "audio.h"
#include "recognizer.h"

namespace {

constexpr size_t kAgreeing = 2;  // recordings that have to agree, see docs/bundle.md

float FromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                        : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// Mean |log-probability - reference|; infinite where the number of frames differs.
double Difference(const Bundle &bundle, const GoldenCase &item, const Recognition &seen) {
  std::ifstream stream(bundle.Path(item.log_probs), std::ios::binary);
  if (!stream) throw std::runtime_error(item.log_probs + ": cannot be read");
  if (seen.frames != item.frames) return std::numeric_limits<double>::infinity();
  double total = 0;
  for (float value : seen.log_probs) {
    unsigned char bytes[2];
    if (!stream.read(reinterpret_cast<char *>(bytes), 2)) {
      throw std::runtime_error(item.log_probs + ": is too short");
    }
    const float reference = FromHalf(static_cast<uint16_t>(bytes[0] | bytes[1] << 8));
    total += std::fabs(std::max(value, -65504.0f) - reference);
  }
  return total / static_cast<double>(seen.log_probs.size());
}

int SelfTest(const Bundle &bundle, const Recognizer &recognizer) {
  if (bundle.golden.size() < kAgreeing) {
    std::fprintf(stderr, "error: the bundle has no golden recordings\n");
    return 3;
  }
  std::vector<double> differences;
  bool texts = true;
  for (const GoldenCase &item : bundle.golden) {
    const Recognition seen = recognizer.Recognize(ReadWav(bundle.Path(item.audio)));
    differences.push_back(Difference(bundle, item, seen));
    texts = texts && seen.text == item.text;
    std::printf("%s\t%s\t%.6f\n", item.audio.c_str(), seen.text.c_str(), differences.back());
  }
  std::sort(differences.begin(), differences.end());
  // The reference is rounded to float16, which costs up to 0.004 nats of the tolerance.
  if (texts && differences[kAgreeing - 1] <= bundle.tolerance_nats) return 0;
  std::fprintf(stderr, "error: this device does not compute what was measured\n");
  return 4;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s BUNDLE FILE.wav... | BUNDLE --self-test\n", argv[0]);
    return 2;
  }
  try {
    const Bundle bundle = ReadBundle(argv[1]);
    const Recognizer recognizer(bundle, 1);
    if (std::strcmp(argv[2], "--self-test") == 0) return SelfTest(bundle, recognizer);
    for (int i = 2; i < argc; ++i) {
      std::printf("%s\t%s\n", argv[i], recognizer.Recognize(ReadWav(argv[i])).text.c_str());
    }
  } catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 3;
  }
  return 0;
}
