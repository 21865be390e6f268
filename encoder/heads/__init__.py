"""A SparseFormer under a task, as transformers' Auto classes know it: classification, segmentation, detection; and as a
backbone for heads of others."""
