"""What all learners share: ranks under Ray Train, DeepSpeed, Hugging Face trainers, packing."""
