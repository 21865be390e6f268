"""Generated images with ground truth: objects, mask, captions, questions and answers."""
