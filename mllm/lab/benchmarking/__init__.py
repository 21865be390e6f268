"""How fast models are for what they compute: contenders side by side in one process, medians with their spread.

Speed alone says little on another machine, so each time stands beside the multiply-accumulates that were counted for it
(`encoder.macs`) and beside what the same machine makes of one large matrix product in the same minutes. Weights are
random, at true sizes: how long a product takes does not depend on them.
"""
