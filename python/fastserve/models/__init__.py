"""Models: config.json to a `DecoderSpec`, a spec and weights to a `Decoder`."""
