#include "audio.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

uint32_t Number(const std::vector<char> &data, size_t at, int bytes) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; ++i) {
    value |= static_cast<uint32_t>(static_cast<unsigned char>(data.at(at + i))) << (8 * i);
  }
  return value;
}

}  // namespace

std::vector<int16_t> ReadWav(const std::string &path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(path + ": cannot be read");
  std::vector<char> data((std::istreambuf_iterator<char>(stream)), {});
  if (data.size() < 12 || std::memcmp(data.data(), "RIFF", 4) != 0 ||
      std::memcmp(data.data() + 8, "WAVE", 4) != 0) {
    throw std::runtime_error(path + ": is no WAV file");
  }
  bool described = false;
  for (size_t at = 12; at + 8 <= data.size();) {
    const size_t length = Number(data, at + 4, 4), body = at + 8;
    if (std::memcmp(data.data() + at, "fmt ", 4) == 0) {
      // Format 1 is PCM; then channels, rate, ..., bits per sample.
      if (Number(data, body, 2) != 1 || Number(data, body + 2, 2) != 1 ||
          Number(data, body + 4, 4) != 16000 || Number(data, body + 14, 2) != 16) {
        throw std::runtime_error(path + ": expected 16 kHz, mono, 16 bits");
      }
      described = true;
    } else if (described && std::memcmp(data.data() + at, "data", 4) == 0) {
      const size_t bytes = std::min(length, data.size() - body);
      std::vector<int16_t> samples(bytes / 2);
      for (size_t i = 0; i < samples.size(); ++i) {
        samples[i] = static_cast<int16_t>(Number(data, body + 2 * i, 2));
      }
      return samples;
    }
    at = body + length + length % 2;
  }
  throw std::runtime_error(path + ": has no samples");
}
