// 16 kHz mono WAV files of 16 bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Samples of a WAV file. Throws std::runtime_error for any other rate, width or number of channels.
std::vector<int16_t> ReadWav(const std::string &path);
