// What a bundle says (docs/bundle.md): the parts of bundle.json and tokens.txt that a device needs.
#pragma once

#include <optional>
#include <string>
#include <vector>

struct FeatureSpec {
  int sample_rate_hz = 0, n_mels = 0;
  double frame_length_ms = 0, frame_shift_ms = 0, low_freq_hz = 0, high_freq_hz = 0;
  double preemphasis = 0, log_floor = 0;
  std::string window;
  std::vector<double> cmvn_mean, cmvn_istd;  // both empty: the network normalises by itself
};

struct GoldenCase {
  std::string audio, log_probs, text;
  int frames = 0;
};

struct Bundle {
  std::string folder, model, target;
  FeatureSpec features;
  int blank_id = 0, vocab_size = 0, min_frames = 0, max_frames = 0;
  std::vector<std::string> tokens;
  std::vector<GoldenCase> golden;
  double tolerance_nats = 0;

  std::string Path(const std::string &name) const { return folder + "/" + name; }

  // Text of output ids, blanks dropped already.
  std::string Text(const std::vector<int> &ids) const;
};

// Throws std::runtime_error where this example cannot run the bundle. Digests and the signature are
// not checked here: `asrcompress verify` does that before the bundle goes to the device.
Bundle ReadBundle(const std::string &folder);
