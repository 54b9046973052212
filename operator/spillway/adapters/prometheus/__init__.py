"""Talking to Prometheus: settings, the queries as text, the client, and GPU activity as values of the core."""

from spillway.adapters.prometheus.settings import PrometheusSettings, PrometheusSettingsError
from spillway.adapters.prometheus.source import ActivitySource, PodHistory, QueryObserver

__all__ = ["ActivitySource", "PodHistory", "PrometheusSettings", "PrometheusSettingsError", "QueryObserver"]
