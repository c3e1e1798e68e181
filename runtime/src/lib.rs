//! pilotlight-runtime
