// Log-mel features by kaldi-native-fbank, as asrcompress.runtime.features computes them.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle.h"

// Features with CMVN applied, row by row, n_mels each; empty where not one frame fits.
std::vector<float> Fbank(const FeatureSpec &spec, const std::vector<int16_t> &samples);
