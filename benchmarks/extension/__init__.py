"""What does a vocabulary extension save, and what does it cost? Tokens and bits per byte."""
