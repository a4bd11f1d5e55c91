#include "recognizer.h"

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "features.h"

namespace {

void Check(const OrtApi *api, OrtStatus *status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error("ONNX Runtime: " + message);
}

// Targets whose weights have 7 bits, which cannot overflow 16-bit sums (docs/targets.md).
bool HasRoom(const std::string &target) {
  return target == "ort-x86-avx2" || target == "lite-x86" || target == "sherpa-offline" ||
         target == "sherpa-stream";
}

}  // namespace

Recognizer::Recognizer(const Bundle &bundle, int threads) : bundle_(bundle) {
  api_ = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api_ == nullptr) throw std::runtime_error("ONNX Runtime: older than the header it is used by");
  Check(api_, api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "asrcompress", &env_));
  OrtSessionOptions *options = nullptr;
  Check(api_, api_->CreateSessionOptions(&options));
  const auto release = [this](OrtSessionOptions *item) { api_->ReleaseSessionOptions(item); };
  const std::unique_ptr<OrtSessionOptions, decltype(release)> owner(options, release);
  Check(api_, api_->SetIntraOpNumThreads(options, threads));
  Check(api_, api_->DisableMemPattern(options));
  // On x86 without VNNI, 8-bit weights saturate int8 sums unless this is asked for.
  Check(api_, api_->AddSessionConfigEntry(options, "session.x64quantprecision",
                                          HasRoom(bundle.target) ? "0" : "1"));
  Check(api_, api_->CreateSession(env_, bundle.Path(bundle.model).c_str(), options, &session_));
  Check(api_, api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
  for (size_t i = 0; i < 2; ++i) {
    inputs_.push_back(Name(true, i));
    outputs_.push_back(Name(false, i));
  }
}

Recognizer::~Recognizer() {
  if (memory_ != nullptr) api_->ReleaseMemoryInfo(memory_);
  if (session_ != nullptr) api_->ReleaseSession(session_);
  if (env_ != nullptr) api_->ReleaseEnv(env_);
}

std::string Recognizer::Name(bool input, size_t index) const {
  OrtAllocator *allocator = nullptr;
  Check(api_, api_->GetAllocatorWithDefaultOptions(&allocator));
  char *name = nullptr;
  Check(api_, input ? api_->SessionGetInputName(session_, index, allocator, &name)
                    : api_->SessionGetOutputName(session_, index, allocator, &name));
  const std::string copy(name);
  Check(api_, api_->AllocatorFree(allocator, name));
  return copy;
}

Recognition Recognizer::Recognize(const std::vector<int16_t> &samples) const {
  std::vector<float> features = Fbank(bundle_.features, samples);
  const int64_t width = bundle_.features.n_mels;
  int64_t length = static_cast<int64_t>(features.size()) / width;
  if (length < bundle_.min_frames || length > bundle_.max_frames) {
    throw std::runtime_error("the recording is too short or too long for this network");
  }
  const auto release = [this](OrtValue *item) { api_->ReleaseValue(item); };
  using Value = std::unique_ptr<OrtValue, decltype(release)>;

  const int64_t shape[] = {1, length, width}, one[] = {1};
  OrtValue *x = nullptr, *x_lens = nullptr;
  Check(api_, api_->CreateTensorWithDataAsOrtValue(
                  memory_, features.data(), features.size() * sizeof(float), shape, 3,
                  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &x));
  const Value x_owner(x, release);
  Check(api_, api_->CreateTensorWithDataAsOrtValue(memory_, &length, sizeof(length), one, 1,
                                                   ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &x_lens));
  const Value x_lens_owner(x_lens, release);

  // Inputs and outputs are told by their order; names are free.
  const char *input_names[] = {inputs_[0].c_str(), inputs_[1].c_str()};
  const char *output_names[] = {outputs_[0].c_str(), outputs_[1].c_str()};
  const OrtValue *inputs[] = {x, x_lens};
  OrtValue *outputs[] = {nullptr, nullptr};
  Check(api_, api_->Run(session_, nullptr, input_names, inputs, 2, output_names, 2, outputs));
  const Value first(outputs[0], release), second(outputs[1], release);

  const float *log_probs = nullptr;
  const int64_t *kept = nullptr;
  Check(api_, api_->GetTensorMutableData(outputs[0], (void **)&log_probs));
  Check(api_, api_->GetTensorMutableData(outputs[1], (void **)&kept));

  Recognition result;
  result.frames = static_cast<int>(*kept);
  const int vocabulary = bundle_.vocab_size;
  result.log_probs.assign(log_probs, log_probs + static_cast<size_t>(result.frames) * vocabulary);
  std::vector<int> ids;
  for (int frame = 0, previous = -1; frame < result.frames; ++frame) {
    const float *row = log_probs + static_cast<size_t>(frame) * vocabulary;
    const int best = static_cast<int>(std::max_element(row, row + vocabulary) - row);
    if (best != previous && best != bundle_.blank_id) ids.push_back(best);
    previous = best;
  }
  result.text = bundle_.Text(ids);
  return result;
}
