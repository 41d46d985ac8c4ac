#include "sluice/gate/trainer_http/service.h"

namespace sluice::gate::trainer_http {

std::string_view openapi_document() {
  return R"json({
 "openapi": "3.1.0",
 "info": {
  "title": "Sluice trainer API",
  "version": "1",
  "description": "Calls of agents to be answered. docs/trainer-api.md explains and has examples."
 },
 "paths": {
  "/health": {
   "get": {
    "summary": "Whether there is a server",
    "responses": {
     "200": {"description": "There is"},
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": []
   }
  },
  "/openapi.json": {
   "get": {
    "summary": "This document",
    "responses": {
     "200": {"description": "It"},
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": []
   }
  },
  "/metrics": {
   "get": {
    "summary": "Figures in Prometheus's text form",
    "responses": {
     "200": {
      "description": "Figures",
      "content": {
       "text/plain": {
        "schema": {"type": "string"}
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     },
     {
      "operator": []
     }
    ]
   }
  },
  "/v1/state": {
   "get": {
    "summary": "How the gate stands",
    "responses": {
     "200": {
      "description": "State",
      "content": {
       "application/json": {
        "schema": {"type": "object"}
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     },
     {
      "operator": []
     }
    ]
   }
  },
  "/v1/events": {
   "get": {
    "summary": "What happens, as server-sent events",
    "responses": {
     "200": {
      "description": "Events",
      "content": {
       "text/event-stream": {
        "schema": {"type": "string"}
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     },
     {
      "operator": []
     }
    ],
    "parameters": [
     {
      "name": "after",
      "in": "query",
      "schema": {"type": "integer"},
      "description": "Only events behind this number (or by the header Last-Event-ID)"
     }
    ]
   }
  },
  "/v1/next_batch": {
   "post": {
    "summary": "Take items of any rollout, fairly over rollouts",
    "responses": {
     "200": {
      "description": "Items, none if none came in time",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "items": {
           "type": "array",
           "items": {"$ref": "#/components/schemas/Item"}
          }
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": false,
        "properties": {
         "max": {
          "type": "integer",
          "description": "How many items at most",
          "default": 1,
          "maximum": 4096
         },
         "wait_s": {
          "type": "number",
          "description": "How long to wait for the first",
          "default": 0,
          "maximum": 300
         },
         "trainer": {
          "type": "string",
          "description": "Who takes; what it holds is its own while it lives",
          "default": "default"
         },
         "lease_s": {
          "type": "number",
          "description": "How long it may be silent before it is taken for dead",
          "default": 60,
          "maximum": 3600
         },
         "afresh": {
          "type": "boolean",
          "description": "It has just started: what its name still holds comes again"
         },
         "canonical": {"type": "boolean", "description": "Give calls in canonical form as well"}
        }
       }
      }
     }
    }
   }
  },
  "/v1/rollouts/{id}/next": {
   "post": {
    "summary": "Take items of one rollout",
    "responses": {
     "200": {
      "description": "Items, none if none came in time",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "items": {
           "type": "array",
           "items": {"$ref": "#/components/schemas/Item"}
          }
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": false,
        "properties": {
         "max": {
          "type": "integer",
          "description": "How many items at most",
          "default": 1,
          "maximum": 4096
         },
         "wait_s": {
          "type": "number",
          "description": "How long to wait for the first",
          "default": 0,
          "maximum": 300
         },
         "trainer": {
          "type": "string",
          "description": "Who takes; what it holds is its own while it lives",
          "default": "default"
         },
         "lease_s": {
          "type": "number",
          "description": "How long it may be silent before it is taken for dead",
          "default": 60,
          "maximum": 3600
         },
         "afresh": {
          "type": "boolean",
          "description": "It has just started: what its name still holds comes again"
         },
         "canonical": {"type": "boolean", "description": "Give calls in canonical form as well"}
        }
       }
      }
     }
    },
    "parameters": [
     {
      "name": "id",
      "in": "path",
      "required": true,
      "schema": {"type": "string"}
     }
    ]
   }
  },
  "/v1/reply": {
   "post": {
    "summary": "Answer one call, or several",
    "responses": {
     "200": {
      "description": "What became of each",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "results": {
           "type": "array",
           "items": {"$ref": "#/components/schemas/Replied"}
          }
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "required": true,
     "content": {
      "application/json": {
       "schema": {
        "anyOf": [
         {"$ref": "#/components/schemas/Reply"},
         {
          "type": "object",
          "required": ["replies"],
          "properties": {
           "replies": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Reply"},
            "maxItems": 4096
           },
           "trainer": {"type": "string", "description": "Who is thereby known to live"},
           "wait_s": {
            "type": "number",
            "description": "Wait so long for the calls' outcomes",
            "maximum": 300
           }
          }
         }
        ]
       }
      }
     }
    }
   }
  },
  "/v1/renew": {
   "post": {
    "summary": "The trainer lives: its items are its own for another lease",
    "responses": {
     "200": {
      "description": "Done",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "ok": {"const": true}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": false,
        "properties": {
         "trainer": {"type": "string", "default": "default"}
        }
       }
      }
     }
    }
   }
  },
  "/v1/give_back": {
   "post": {
    "summary": "Put back all that the trainer holds",
    "responses": {
     "200": {
      "description": "How much that was",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "given_back": {"type": "integer"}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": false,
        "properties": {
         "trainer": {"type": "string", "default": "default"}
        }
       }
      }
     }
    }
   }
  },
  "/v1/pause": {
   "post": {
    "summary": "Hold calls back from every take",
    "responses": {
     "200": {
      "description": "Done",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "ok": {"const": true}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ]
   }
  },
  "/v1/resume": {
   "post": {
    "summary": "End a pause, perhaps under a new policy version",
    "responses": {
     "200": {
      "description": "Done",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "ok": {"const": true}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": false,
        "properties": {
         "version": {"type": "string"}
        }
       }
      }
     }
    }
   }
  },
  "/v1/rollouts/{id}/cancel": {
   "post": {
    "summary": "End a rollout's calls and make its agent end",
    "responses": {
     "200": {
      "description": "Done",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "ok": {"const": true}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": false,
        "properties": {
         "reason": {"type": "string"}
        }
       }
      }
     }
    },
    "parameters": [
     {
      "name": "id",
      "in": "path",
      "required": true,
      "schema": {"type": "string"}
     }
    ]
   }
  },
  "/v1/cancel_stale": {
   "post": {
    "summary": "Cancel rollouts whose first answer is more than so many versions old",
    "responses": {
     "200": {
      "description": "Done",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "ok": {"const": true}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "trainer": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": false,
        "properties": {
         "versions": {"type": "integer"}
        },
        "required": ["versions"]
       }
      }
     }
    }
   }
  },
  "/v1/rollouts": {
   "post": {
    "summary": "Open a rollout for an agent in a sandbox of your own",
    "responses": {
     "201": {
      "description": "Where and by which key its agent asks",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "rollout": {"type": "string"},
          "url": {"type": "string"},
          "key": {"type": "string"},
          "expires_at": {"type": "integer", "description": "Seconds since 1970"}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "operator": []
     }
    ],
    "requestBody": {
     "content": {
      "application/json": {
       "schema": {"$ref": "#/components/schemas/Registration"}
      }
     }
    }
   }
  },
  "/v1/rollouts/{id}": {
   "get": {
    "summary": "A registered rollout's books",
    "responses": {
     "200": {
      "description": "Counters",
      "content": {
       "application/json": {
        "schema": {"type": "object"}
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "operator": []
     }
    ],
    "parameters": [
     {
      "name": "id",
      "in": "path",
      "required": true,
      "schema": {"type": "string"}
     }
    ]
   },
   "delete": {
    "summary": "Close a registered rollout",
    "responses": {
     "200": {
      "description": "Done",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "ok": {"const": true}
         }
        }
       }
      }
     },
     "default": {
      "description": "An error",
      "content": {
       "application/json": {
        "schema": {"$ref": "#/components/schemas/Error"}
       }
      }
     }
    },
    "security": [
     {
      "operator": []
     }
    ],
    "parameters": [
     {
      "name": "id",
      "in": "path",
      "required": true,
      "schema": {"type": "string"}
     }
    ]
   }
  }
 },
 "components": {
  "securitySchemes": {
   "trainer": {"type": "http", "scheme": "bearer", "description": "The trainer's key"},
   "operator": {"type": "http", "scheme": "bearer", "description": "The operator's key"}
  },
  "schemas": {
   "Error": {
    "type": "object",
    "properties": {
     "error": {
      "type": "object",
      "properties": {
       "code": {"type": "string"},
       "message": {"type": "string"}
      }
     }
    }
   },
   "Item": {
    "oneOf": [
     {
      "type": "object",
      "title": "call",
      "properties": {
       "type": {"const": "call"},
       "id": {"type": "string", "description": "Signed; to be named in the reply"},
       "rollout": {"type": "string"},
       "ordinal": {"type": "integer", "description": "1, 2, ... within the rollout"},
       "deliveries": {"type": "integer", "description": "How often it was handed out"},
       "version": {"type": "string", "description": "The policy's, as the last resume said"},
       "session": {"type": "string"},
       "parent_session": {"type": "string"},
       "dialect": {
        "type": "string",
        "enum": ["chat", "responses", "messages", "gemini"]
       },
       "purpose": {
        "type": "string",
        "enum": ["main", "title", "summary", "subagent", "probe"]
       },
       "model": {"type": "string"},
       "n": {"type": "integer"},
       "stream": {"type": "boolean"},
       "digest": {"type": "string"},
       "body": {"description": "The request as it came"},
       "body_base64": {"type": "string", "description": "The same if it is no JSON throughout"},
       "request": {"type": "object", "description": "Canonical form, if asked for"}
      }
     },
     {
      "type": "object",
      "title": "tool",
      "properties": {
       "type": {"const": "tool"},
       "id": {"type": "string"},
       "rollout": {"type": "string"},
       "deliveries": {"type": "integer"},
       "tool": {"type": "string"},
       "arguments": {"type": "object"},
       "time_left_s": {"type": "number"}
      }
     },
     {
      "type": "object",
      "title": "ended",
      "properties": {
       "type": {"const": "ended"},
       "rollout": {"type": "string"},
       "reason": {"type": "string"}
      }
     }
    ]
   },
   "Reply": {
    "type": "object",
    "required": ["call"],
    "additionalProperties": false,
    "description": "Exactly one of answer, completion, refusal, tool_result",
    "properties": {
     "call": {"type": "string", "description": "The item's id"},
     "answer": {"$ref": "#/components/schemas/Answer"},
     "completion": {
      "type": "object",
      "description": "A chat.completion object as an inference server gave it, with token_ids, prompt_token_ids and logprobs"
     },
     "origin": {
      "type": "string",
      "description": "Of a completion",
      "enum": ["sampled", "edited", "canned", "injected"],
      "default": "sampled"
     },
     "version": {
      "type": "string",
      "description": "The policy's, where the answer names none itself"
     },
     "refusal": {
      "type": "object",
      "properties": {
       "message": {"type": "string"},
       "kind": {
        "type": "string",
        "description": "An error code, such as cancelled or unavailable"
       },
       "end_agent": {"type": "boolean", "description": "Choose the status that makes the agent end"}
      }
     },
     "tool_result": {
      "type": "object",
      "properties": {
       "text": {"type": "string"},
       "failed": {"type": "boolean"}
      }
     },
     "trainer": {"type": "string", "description": "Who is thereby known to live"},
     "wait_s": {
      "type": "number",
      "description": "Wait so long for the call's outcome",
      "maximum": 300
     }
    }
   },
   "Answer": {
    "type": "object",
    "required": ["choices"],
    "properties": {
     "origin": {
      "type": "string",
      "enum": ["sampled", "edited", "canned", "injected"],
      "default": "injected"
     },
     "choices": {
      "type": "array",
      "items": {
       "type": "object",
       "properties": {
        "text": {"type": "string"},
        "reasoning": {"type": "string"},
        "refusal": {"type": "string"},
        "finish": {
         "type": "string",
         "enum": ["stop", "length", "tool_calls", "content_filter"]
        },
        "tool_calls": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "id": {"type": "string"},
           "name": {"type": "string"},
           "arguments": {"type": "string", "description": "As the model wrote them"}
          }
         }
        },
        "ids": {
         "type": "array",
         "items": {"type": "integer"}
        },
        "logprobs": {
         "type": "array",
         "items": {"type": "number"}
        },
        "versions": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "first_token": {"type": "integer"},
           "version": {"type": "string"}
          }
         }
        }
       }
      }
     },
     "usage": {
      "type": "object",
      "properties": {
       "prompt_tokens": {"type": "integer"},
       "completion_tokens": {"type": "integer"}
      }
     },
     "prompt_ids": {
      "type": "array",
      "items": {"type": "integer"}
     }
    }
   },
   "Replied": {
    "type": "object",
    "properties": {
     "call": {"type": "string"},
     "accepted": {"type": "boolean", "description": "The answer is recorded"},
     "error": {"type": "object"},
     "outcome": {
      "type": "string",
      "description": "If it was waited for and the call has ended",
      "enum": ["delivered", "undelivered", "superseded", "refused", "failed", "cancelled"]
     }
    }
   },
   "Registration": {
    "type": "object",
    "additionalProperties": false,
    "properties": {
     "id": {
      "type": "string",
      "description": "1 to 64 of letters, digits, '.', '_', '-'; one is made if there is none"
     },
     "dialects": {
      "type": "array",
      "items": {"type": "string"}
     },
     "models": {
      "type": "array",
      "items": {"type": "string"}
     },
     "budget": {
      "type": "object",
      "properties": {
       "calls": {"type": "integer"},
       "open_calls": {"type": "integer"},
       "calls_per_second": {"type": "number"},
       "tokens": {"type": "integer"},
       "bytes": {"type": "integer"},
       "time_s": {"type": "number"}
      }
     },
     "resend": {
      "type": "object",
      "properties": {
       "window_s": {"type": "number"},
       "grace_s": {"type": "number"},
       "ignore_fields": {
        "type": "array",
        "items": {"type": "string"}
       }
      }
     },
     "session_headers": {
      "type": "object",
      "properties": {
       "session": {"type": "string"},
       "parent": {"type": "string"}
      }
     },
     "origins": {
      "type": "object",
      "properties": {
       "tokens": {
        "type": "string",
        "enum": ["required", "waived"]
       },
       "accept": {
        "type": "string",
        "enum": ["any", "sampled"]
       }
      }
     },
     "purposes": {
      "type": "array",
      "items": {
       "type": "object",
       "properties": {
        "purpose": {"type": "string"},
        "has_tools": {"type": "boolean"},
        "has_parent_session": {"type": "boolean"},
        "system_contains": {"type": "string"},
        "canned": {"type": "string"}
       }
      }
     },
     "tools": {
      "type": "array",
      "items": {
       "type": "object",
       "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "parameters": {"type": "object"},
        "timeout_s": {"type": "number"}
       }
      }
     },
     "max_version_lag": {"type": "integer"},
     "lifetime_s": {"type": "number", "default": 86400}
    }
   }
  }
 }
})json";
}

}  // namespace sluice::gate::trainer_http
