"""What is measured with: passkeys, needles and key-value pairs hidden in texts of any length."""
