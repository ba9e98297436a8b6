"""agent-streams: the orchestration layer that AI agents run on in production.

Users import everything from here; modules below are not part of the public API.
"""

from streams.agents.agent import Agent
from streams.agents.budget import Budget
from streams.agents.context import Context
from streams.agents.conversation import Recap, condense, pages, window
from streams.agents.outcome import Failure, Outcome
from streams.agents.shared import SharedRecords, Versioned
from streams.agents.state import Log
from streams.app import App
from streams.client.client import Client
from streams.client.handle import Handle
from streams.client.outcome import InvocationResult
from streams.client.shared import AgentState, LogPage, RemoteRecords, RemoteState
from streams.errors import (
    AgentDeadlock,
    Backpressure,
    BrokerUnavailable,
    BudgetExceeded,
    ChildFailed,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    HandlerError,
    InvalidInput,
    InvocationFailed,
    MissingFallback,
    ModelRefused,
    NonDeterminism,
    NotDurable,
    PayloadTooLarge,
    ResultTimeout,
    SettingsError,
    SignalTimeout,
    StreamsError,
    Throttled,
    ToolRefused,
    TooManyWaiting,
    Unavailable,
    UnknownInvocation,
    UnusableAnswer,
    VersionConflict,
)
from streams.llm.messages import Message, Reply, Tokens, ToolRequest
from streams.llm.model import Model
from streams.settings import Settings, load_settings
from streams.tools.context import CallInfo, call_info
from streams.tools.tool import Tool

__all__ = [
    "Agent",
    "AgentDeadlock",
    "AgentState",
    "App",
    "Backpressure",
    "BrokerUnavailable",
    "Budget",
    "BudgetExceeded",
    "CallInfo",
    "ChildFailed",
    "Client",
    "ConfigurationError",
    "Conflict",
    "Context",
    "DeadlineExceeded",
    "Failure",
    "Handle",
    "HandlerError",
    "InvalidInput",
    "InvocationFailed",
    "InvocationResult",
    "Log",
    "LogPage",
    "Message",
    "MissingFallback",
    "Model",
    "ModelRefused",
    "NonDeterminism",
    "NotDurable",
    "Outcome",
    "PayloadTooLarge",
    "Recap",
    "RemoteRecords",
    "RemoteState",
    "Reply",
    "ResultTimeout",
    "Settings",
    "SettingsError",
    "SharedRecords",
    "SignalTimeout",
    "StreamsError",
    "Throttled",
    "Tokens",
    "TooManyWaiting",
    "Tool",
    "ToolRefused",
    "ToolRequest",
    "Unavailable",
    "UnknownInvocation",
    "UnusableAnswer",
    "VersionConflict",
    "Versioned",
    "call_info",
    "condense",
    "load_settings",
    "pages",
    "window",
]
