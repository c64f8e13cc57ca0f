"""Models of Hugging Face's transformers, `hf:DIRECTORY_OR_ID`: what they take and tell, read from their own files."""
