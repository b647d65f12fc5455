"""The Python API: AsyncClient, Client (the same, blocking), what they give: AsyncJob, Job, Message and Result."""

from zcluster.clients.async_client import AsyncClient
from zcluster.clients.client import Client
from zcluster.clients.jobs import AsyncJob
from zcluster.clients.jobs_blocking import Job
from zcluster.clients.messages import Message
from zcluster.clients.result import Result

__all__ = ["AsyncClient", "AsyncJob", "Client", "Job", "Message", "Result"]
