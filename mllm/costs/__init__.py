"""What a model costs, before there are weights: parameters, visual tokens, multiply-accumulates, memory.

Everything is counted on the meta device, where tensors have shapes and no contents, by running the real model.
"""
