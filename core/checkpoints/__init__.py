"""PaddleSpeech's experiment folders: reading them, and building their networks."""
