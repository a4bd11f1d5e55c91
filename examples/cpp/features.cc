#include "features.h"

#include <algorithm>
#include <cmath>

#include "kaldi-native-fbank/csrc/online-feature.h"

std::vector<float> Fbank(const FeatureSpec &spec, const std::vector<int16_t> &samples) {
  knf::FbankOptions options;
  // Energies, because the floor under the logarithm is PaddleSpeech's, not Kaldi's.
  options.use_log_fbank = false;
  options.use_energy = false;
  options.frame_opts.samp_freq = static_cast<float>(spec.sample_rate_hz);
  options.frame_opts.frame_length_ms = static_cast<float>(spec.frame_length_ms);
  options.frame_opts.frame_shift_ms = static_cast<float>(spec.frame_shift_ms);
  options.frame_opts.window_type = spec.window;
  options.frame_opts.preemph_coeff = static_cast<float>(spec.preemphasis);
  options.frame_opts.dither = 0;
  options.frame_opts.snip_edges = true;
  options.mel_opts.num_bins = spec.n_mels;
  options.mel_opts.low_freq = static_cast<float>(spec.low_freq_hz);
  options.mel_opts.high_freq = static_cast<float>(spec.high_freq_hz);

  knf::OnlineFbank extractor(options);
  const std::vector<float> scaled(samples.begin(), samples.end());
  extractor.AcceptWaveform(static_cast<float>(spec.sample_rate_hz), scaled.data(),
                           static_cast<int32_t>(scaled.size()));
  extractor.InputFinished();

  const float floor = static_cast<float>(spec.log_floor);
  std::vector<float> features;
  features.reserve(static_cast<size_t>(extractor.NumFramesReady()) * spec.n_mels);
  for (int32_t frame = 0; frame < extractor.NumFramesReady(); ++frame) {
    const float *energies = extractor.GetFrame(frame);
    for (int bin = 0; bin < spec.n_mels; ++bin) {
      float value = std::log(std::max(energies[bin], floor));
      if (!spec.cmvn_mean.empty()) {
        value = static_cast<float>((value - spec.cmvn_mean[bin]) * spec.cmvn_istd[bin]);
      }
      features.push_back(value);
    }
  }
  return features;
}
