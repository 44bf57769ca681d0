"""Forms of outputs: compiled against the model's vocabulary, and followed token by token. By the library xgrammar."""
