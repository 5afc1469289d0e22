"""What authors of families may use besides the contract: loading, codecs, twins."""
