// The network of a bundle in ONNX Runtime's C API, and greedy CTC decoding.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bundle.h"

struct Recognition {
  std::string text;
  int frames = 0;
  std::vector<float> log_probs;  // frames x vocab_size, natural logarithms
};

class Recognizer {
 public:
  // Throws std::runtime_error with ONNX Runtime's words where it refuses the model.
  Recognizer(const Bundle &bundle, int threads);
  ~Recognizer();
  Recognizer(const Recognizer &) = delete;
  Recognizer &operator=(const Recognizer &) = delete;

  Recognition Recognize(const std::vector<int16_t> &samples) const;

 private:
  std::string Name(bool input, size_t index) const;

  const Bundle &bundle_;
  const OrtApi *api_ = nullptr;
  OrtEnv *env_ = nullptr;
  OrtSession *session_ = nullptr;
  OrtMemoryInfo *memory_ = nullptr;
  std::vector<std::string> inputs_, outputs_;
};
