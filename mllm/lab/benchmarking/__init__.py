"""How fast models are for what they compute: benchmark cases side by side in one process, medians with their spread.

Speed alone says little on another machine, so each time stands beside the multiply-accumulates that were counted for it
(`encoder.macs`) and beside what the same machine makes of one large matmul in the same type and minutes. Weights are
random, at true sizes: how long a matmul takes does not depend on them.
"""
