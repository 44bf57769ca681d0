"""What a model writes, taken apart while it arrives: reasoning, content, tool calls.

Each format is one state machine. The pieces that it gives, joined, do not depend on where the text was cut.
"""
