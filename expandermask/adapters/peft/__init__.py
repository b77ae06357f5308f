"""The bridge to Hugging Face PEFT: its LoRA folders and models, and masked LoRA as a tuner."""
