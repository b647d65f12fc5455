"""The Python API: AsyncClient, Client (the same, blocking), Message and Result."""

from zcluster.clients.async_client import AsyncClient
from zcluster.clients.client import Client
from zcluster.clients.messages import Message
from zcluster.clients.result import Result

__all__ = ["AsyncClient", "Client", "Message", "Result"]
