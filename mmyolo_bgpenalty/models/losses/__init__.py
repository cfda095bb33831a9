"""The penalty, the loss that adds it to any head, and losses from the positives alone."""
