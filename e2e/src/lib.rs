//! pilotlight-e2e
