"""The Python API: AsyncClient, Client (the same, blocking) and Result."""

from zcluster.clients.async_client import AsyncClient
from zcluster.clients.client import Client
from zcluster.clients.result import Result

__all__ = ["AsyncClient", "Client", "Result"]
