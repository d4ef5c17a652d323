"""What the training side and the serving side both know about models."""
