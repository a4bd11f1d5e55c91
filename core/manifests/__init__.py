"""Lists of utterances, in every spelling that is in use."""
