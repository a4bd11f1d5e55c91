"""Other runtimes' layouts: sherpa-onnx and WeNet."""
