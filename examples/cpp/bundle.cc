#include "bundle.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace {

using Json = nlohmann::json;

FeatureSpec ReadFeatures(const Json &tree) {
  if (tree.at("kind") != "fbank_kaldi" || tree.at("round_samples") != true ||
      tree.at("sample_scale") != 32768.0 || !tree.value("target_db", Json()).is_null()) {
    throw std::runtime_error("features: this example knows fbank_kaldi of 16-bit samples only");
  }
  FeatureSpec spec;
  spec.sample_rate_hz = tree.at("sample_rate_hz");
  spec.n_mels = tree.at("n_mels");
  spec.frame_length_ms = tree.at("frame_length_ms");
  spec.frame_shift_ms = tree.at("frame_shift_ms");
  spec.low_freq_hz = tree.at("low_freq_hz");
  spec.high_freq_hz = tree.at("high_freq_hz");
  spec.preemphasis = tree.at("preemphasis");
  spec.log_floor = tree.at("log_floor");
  spec.window = tree.at("window");
  spec.cmvn_mean = tree.at("cmvn_mean").get<std::vector<double>>();
  spec.cmvn_istd = tree.at("cmvn_istd").get<std::vector<double>>();
  return spec;
}

std::vector<std::string> ReadTokens(const std::string &path) {
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path + ": cannot be read");
  std::vector<std::string> tokens;
  for (std::string line; std::getline(stream, line);) {
    const size_t space = line.rfind(' ');
    if (space == std::string::npos || line.substr(space + 1) != std::to_string(tokens.size())) {
      throw std::runtime_error(path + ": expected a symbol, a space and the next id");
    }
    tokens.push_back(line.substr(0, space));
  }
  return tokens;
}

// The byte that a piece such as <0xE4> stands for, or -1.
int ByteOf(const std::string &token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
  return std::stoi(token.substr(3, 2), nullptr, 16);
}

}  // namespace

std::string Bundle::Text(const std::vector<int> &ids) const {
  static const std::set<std::string> silent = {"<blk>", "<eps>", "<unk>", "<eos>", "<sos>",
                                               "<sos/eos>", "<s>", "</s>", "<pad>", "<mask>"};
  static const std::string boundary = "\xe2\x96\x81";  // U+2581
  std::string text;
  for (int id : ids) {
    std::string token = tokens.at(id);
    if (silent.count(token)) continue;
    if (const int byte = ByteOf(token); byte >= 0) {
      text += static_cast<char>(byte);
      continue;
    }
    for (size_t at; (at = token.find(boundary)) != std::string::npos;) {
      token.replace(at, boundary.size(), " ");
    }
    text += token;
  }
  const size_t first = text.find_first_not_of(' ');
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(' ') - first + 1);
}

Bundle ReadBundle(const std::string &folder) {
  std::ifstream stream(folder + "/bundle.json");
  if (!stream) throw std::runtime_error(folder + "/bundle.json: cannot be read");
  const Json tree = Json::parse(stream);
  const int version = tree.at("schema_version");
  if (version != 1 && version != 2) {
    throw std::runtime_error("schema_version " + std::to_string(version) + " is not known here");
  }
  Bundle bundle;
  bundle.folder = folder;
  bundle.model = tree.at("model");
  bundle.target = tree.value("target", "");
  bundle.features = ReadFeatures(tree.at("features"));
  bundle.blank_id = tree.at("blank_id");
  bundle.vocab_size = tree.at("vocab_size");
  bundle.min_frames = tree.at("min_frames");
  bundle.max_frames = tree.at("max_frames");
  bundle.tokens = ReadTokens(bundle.Path(tree.at("tokens")));
  if (bundle.tokens.size() != static_cast<size_t>(bundle.vocab_size)) {
    throw std::runtime_error("tokens.txt: does not have vocab_size lines");
  }
  if (const Json golden = tree.value("golden", Json()); !golden.is_null()) {
    bundle.tolerance_nats = golden.at("tolerance_nats");
    for (const Json &item : golden.at("cases")) {
      bundle.golden.push_back({item.at("audio"), item.at("log_probs"), item.at("text"),
                               item.at("frames")});
    }
  }
  return bundle;
}
