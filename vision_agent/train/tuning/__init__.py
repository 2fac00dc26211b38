"""Fine-tuning of any InternVL on dialogues: LoRA, full, or the projector alone."""
