"""What an adapted module is: values under masks, what they compute, and merging them."""
