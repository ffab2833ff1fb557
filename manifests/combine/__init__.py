"""Manifests put together and put right: merged, annotated, found again after stores moved."""
