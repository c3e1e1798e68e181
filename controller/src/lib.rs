//! pilotlight-controller
