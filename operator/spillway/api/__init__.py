"""The custom resources, as pydantic models: the single source of truth for CRDs and docs."""
