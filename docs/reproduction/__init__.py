"""The study: what the paper found, asked again with encoders trained here, on public pictures."""
