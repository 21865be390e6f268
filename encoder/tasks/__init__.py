"""A SparseFormer trained for a task: classification, segmentation, detection. `mllm train-task` is the command."""
