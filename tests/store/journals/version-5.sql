BEGIN TRANSACTION;
CREATE TABLE events (
            run_id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            version INTEGER NOT NULL,
            at REAL NOT NULL,
            data TEXT NOT NULL, usd REAL,
            PRIMARY KEY (run_id, seq),
            UNIQUE (run_id, epoch, name)
        );
INSERT INTO "events" VALUES('r-done',1,1,'run/start','run-started',5,1.79609577662007379537e+09,'{"name":"run/start","at":1796095776.6200738,"kind":"run-started","request":{"kind":"orchestration","task":"why?","context":"","constraints":[],"inputs":[{"name":"a.txt","digest":"73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719","chars":5}],"left_out":[],"model":"","workers":[],"plan":null,"mode":"auto","decomposition":"hybrid","guard":"","verify":null,"approve":"never","output_schema":null,"limits":{"max_subtasks":8,"slots":8,"subtask_seconds":120.0,"run_seconds":900.0,"ask_seconds":120.0,"max_tokens":16384,"rounds":6,"budget_usd":2.0,"budget_tokens":2000000},"rerun_of":"","redo":[],"plan_gaps":[]},"notice":"","origin":{"principal":"","trace_context":{}}}',NULL);
INSERT INTO "events" VALUES('r-done',2,1,'plan/call/1/start','call-started',5,1.79609577666940283769e+09,'{"name":"plan/call/1/start","at":1796095776.6694028,"kind":"call-started","step":"plan/call/1","caller":"planner","model":"fake-big","subtask_id":null}',NULL);
INSERT INTO "events" VALUES('r-done',3,1,'plan/call/1','call-finished',5,1.79609577667246818541e+09,'{"name":"plan/call/1","at":1796095776.6724682,"kind":"call-finished","caller":"planner","subtask_id":null,"reply":{"text":"{\"analysis\": \"what it is about\", \"direct_answer\": null, \"mode\": \"static\", \"why\": \"all is known from the start\", \"verify\": \"none\", \"subtasks\": [{\"id\": \"s1\", \"worker\": \"analyst\", \"objective\": \"do s1\", \"why\": \"\", \"depends_on\": [], \"priority\": \"medium\", \"inputs\": [\"a.txt\"], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}, {\"id\": \"s2\", \"worker\": \"critic\", \"objective\": \"do s2\", \"why\": \"\", \"depends_on\": [\"s1\"], \"priority\": \"medium\", \"inputs\": [], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}]}","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}',0.01);
INSERT INTO "events" VALUES('r-done',4,1,'subtask/s1/draft','subtask-drafted',5,1.7960957766727547645e+09,'{"name":"subtask/s1/draft","at":1796095776.6727548,"kind":"subtask-drafted","subtask":{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}',NULL);
INSERT INTO "events" VALUES('r-done',5,1,'subtask/s1/start','subtask-started',5,1.79609577667330074313e+09,'{"name":"subtask/s1/start","at":1796095776.6733007,"kind":"subtask-started","subtask_id":"s1","fingerprint":"cf989fc20dc8eb1b2b3a34bd23a3eea4bf3748fce82290ba51daa621fc6a482c","built_on":{}}',NULL);
INSERT INTO "events" VALUES('r-done',6,1,'subtask/s1/call/1/start','call-started',5,1.79609577667438864712e+09,'{"name":"subtask/s1/call/1/start","at":1796095776.6743886,"kind":"call-started","step":"subtask/s1/call/1","caller":"worker:analyst","model":"fake-small","subtask_id":"s1"}',NULL);
INSERT INTO "events" VALUES('r-done',7,1,'subtask/s1/call/1','call-finished',5,1.79609577667511391635e+09,'{"texts":[[["reply","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/call/1","at":1796095776.675114,"kind":"call-finished","caller":"worker:analyst","subtask_id":"s1","reply":{"text":"","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}',0.01);
INSERT INTO "events" VALUES('r-done',8,1,'plan/1','plan-accepted',5,1.79609577667817306521e+09,'{"name":"plan/1","at":1796095776.678173,"kind":"plan-accepted","plan":{"analysis":"what it is about","direct_answer":null,"mode":"static","why":"all is known from the start","verify":"none","subtasks":[{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null},{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}],"custom_workers":[]},"warnings":[],"left_out":[],"estimate":{"calls":{"low":3,"high":3},"tokens":{"low":3600,"high":31000},"usd":{"low":0.0,"high":0.0},"seconds":{"low":4.5,"high":260.0}}}',NULL);
INSERT INTO "events" VALUES('r-done',9,1,'subtask/s1/result','subtask-finished',5,1.79609577667913079259e+09,'{"texts":[[["result","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/result","at":1796095776.6791308,"kind":"subtask-finished","result":{"subtask_id":"s1","worker":"analyst","status":"succeeded","text":"","value":null,"parts":[],"errors":[],"notes":[],"sources":[],"usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"seconds":0.005540455998925609,"saved":null,"taken_from":"","fingerprint":"cf989fc20dc8eb1b2b3a34bd23a3eea4bf3748fce82290ba51daa621fc6a482c","built_on":{}}}',NULL);
INSERT INTO "events" VALUES('r-done',10,1,'subtask/s2/draft','subtask-drafted',5,1.79609577667948269838e+09,'{"name":"subtask/s2/draft","at":1796095776.6794827,"kind":"subtask-drafted","subtask":{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}',NULL);
INSERT INTO "events" VALUES('r-done',11,1,'subtask/s2/start','subtask-started',5,1.79609577667957139015e+09,'{"name":"subtask/s2/start","at":1796095776.6795714,"kind":"subtask-started","subtask_id":"s2","fingerprint":"f8cada98e34d7fb9764f74c8d0dc9a1c825194b07b4c00d0980a9e9301d27f26","built_on":{"s1":"c99f5127977bc979"}}',NULL);
INSERT INTO "events" VALUES('r-done',12,1,'subtask/s2/call/1/start','call-started',5,1.79609577668003630632e+09,'{"name":"subtask/s2/call/1/start","at":1796095776.6800363,"kind":"call-started","step":"subtask/s2/call/1","caller":"worker:critic","model":"fake-small","subtask_id":"s2"}',NULL);
INSERT INTO "events" VALUES('r-done',13,1,'subtask/s2/call/1','call-finished',5,1.79609577668045663828e+09,'{"name":"subtask/s2/call/1","at":1796095776.6804566,"kind":"call-finished","caller":"worker:critic","subtask_id":"s2","reply":{"text":"done","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}',0.01);
INSERT INTO "events" VALUES('r-done',14,1,'subtask/s2/result','subtask-finished',5,1.79609577668123626716e+09,'{"name":"subtask/s2/result","at":1796095776.6812363,"kind":"subtask-finished","result":{"subtask_id":"s2","worker":"critic","status":"succeeded","text":"done","value":null,"parts":[],"errors":[],"notes":[],"sources":[],"usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"seconds":0.0015102420002222061,"saved":null,"taken_from":"","fingerprint":"f8cada98e34d7fb9764f74c8d0dc9a1c825194b07b4c00d0980a9e9301d27f26","built_on":{"s1":"c99f5127977bc979"}}}',NULL);
INSERT INTO "events" VALUES('r-done',15,1,'synthesis/start','synthesis-started',5,1796095776.68147,'{"name":"synthesis/start","at":1796095776.68147,"kind":"synthesis-started","made_from":"c5e6577f908e977c"}',NULL);
INSERT INTO "events" VALUES('r-done',16,1,'synthesis/call/1/start','call-started',5,1.79609577668174695964e+09,'{"name":"synthesis/call/1/start","at":1796095776.681747,"kind":"call-started","step":"synthesis/call/1","caller":"synthesizer","model":"fake-big","subtask_id":null}',NULL);
INSERT INTO "events" VALUES('r-done',17,1,'synthesis/call/1','call-finished',5,1796095776.68194,'{"name":"synthesis/call/1","at":1796095776.68194,"kind":"call-finished","caller":"synthesizer","subtask_id":null,"reply":{"text":"because","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}',0.01);
INSERT INTO "events" VALUES('r-done',18,1,'run/end','run-ended',5,1.79609577668272614482e+09,'{"name":"run/end","at":1796095776.6827261,"kind":"run-ended","status":"succeeded","answer":"because","value":null,"reasons":[],"rest":null,"synthesized":true,"nothing_left":false}',NULL);
INSERT INTO "events" VALUES('r-planned',1,1,'run/start','run-started',5,1.79609577668521165844e+09,'{"name":"run/start","at":1796095776.6852117,"kind":"run-started","request":{"kind":"plan","task":"why?","context":"","constraints":[],"inputs":[{"name":"a.txt","digest":"73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719","chars":5}],"left_out":[],"model":"","workers":[],"plan":null,"mode":"auto","decomposition":"hybrid","guard":"","verify":null,"approve":"never","output_schema":null,"limits":{"max_subtasks":8,"slots":8,"subtask_seconds":120.0,"run_seconds":900.0,"ask_seconds":120.0,"max_tokens":16384,"rounds":6,"budget_usd":2.0,"budget_tokens":2000000},"rerun_of":"","redo":[],"plan_gaps":[]},"notice":"","origin":{"principal":"","trace_context":{}}}',NULL);
INSERT INTO "events" VALUES('r-planned',2,1,'plan/call/1/start','call-started',5,1.79609577668641400343e+09,'{"name":"plan/call/1/start","at":1796095776.686414,"kind":"call-started","step":"plan/call/1","caller":"planner","model":"fake-big","subtask_id":null}',NULL);
INSERT INTO "events" VALUES('r-planned',3,1,'plan/call/1','call-finished',5,1.79609577668676233296e+09,'{"name":"plan/call/1","at":1796095776.6867623,"kind":"call-finished","caller":"planner","subtask_id":null,"reply":{"text":"{\"analysis\": \"what it is about\", \"direct_answer\": null, \"mode\": \"static\", \"why\": \"all is known from the start\", \"verify\": \"none\", \"subtasks\": [{\"id\": \"s1\", \"worker\": \"analyst\", \"objective\": \"do s1\", \"why\": \"\", \"depends_on\": [], \"priority\": \"medium\", \"inputs\": [\"a.txt\"], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}, {\"id\": \"s2\", \"worker\": \"critic\", \"objective\": \"do s2\", \"why\": \"\", \"depends_on\": [\"s1\"], \"priority\": \"medium\", \"inputs\": [], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}]}","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}',0.01);
INSERT INTO "events" VALUES('r-planned',4,1,'plan/1','plan-accepted',5,1.79609577668813800814e+09,'{"name":"plan/1","at":1796095776.688138,"kind":"plan-accepted","plan":{"analysis":"what it is about","direct_answer":null,"mode":"static","why":"all is known from the start","verify":"none","subtasks":[{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null},{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}],"custom_workers":[]},"warnings":[],"left_out":[],"estimate":{"calls":{"low":3,"high":3},"tokens":{"low":3600,"high":31000},"usd":{"low":0.0,"high":0.0},"seconds":{"low":4.5,"high":260.0}}}',NULL);
INSERT INTO "events" VALUES('r-planned',5,1,'run/end','run-ended',5,1.7960957766890046596e+09,'{"name":"run/end","at":1796095776.6890047,"kind":"run-ended","status":"succeeded","answer":"","value":null,"reasons":[],"rest":null,"synthesized":false,"nothing_left":false}',NULL);
INSERT INTO "events" VALUES('r-cut-off',1,1,'run/start','run-started',5,1.79609577669829058648e+09,'{"name":"run/start","at":1796095776.6982906,"kind":"run-started","request":{"kind":"orchestration","task":"why?","context":"","constraints":[],"inputs":[{"name":"a.txt","digest":"73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719","chars":5}],"left_out":[],"model":"","workers":[],"plan":null,"mode":"auto","decomposition":"hybrid","guard":"","verify":null,"approve":"never","output_schema":null,"limits":{"max_subtasks":8,"slots":8,"subtask_seconds":120.0,"run_seconds":900.0,"ask_seconds":120.0,"max_tokens":16384,"rounds":6,"budget_usd":2.0,"budget_tokens":2000000},"rerun_of":"","redo":[],"plan_gaps":[]},"notice":"","origin":{"principal":"","trace_context":{}}}',NULL);
INSERT INTO "events" VALUES('r-cut-off',2,1,'plan/call/1/start','call-started',5,1.79609577670344948766e+09,'{"name":"plan/call/1/start","at":1796095776.7034495,"kind":"call-started","step":"plan/call/1","caller":"planner","model":"fake-big","subtask_id":null}',NULL);
INSERT INTO "events" VALUES('r-cut-off',3,1,'plan/call/1','call-finished',5,1.79609577670465064046e+09,'{"name":"plan/call/1","at":1796095776.7046506,"kind":"call-finished","caller":"planner","subtask_id":null,"reply":{"text":"{\"analysis\": \"what it is about\", \"direct_answer\": null, \"mode\": \"static\", \"why\": \"all is known from the start\", \"verify\": \"none\", \"subtasks\": [{\"id\": \"s1\", \"worker\": \"analyst\", \"objective\": \"do s1\", \"why\": \"\", \"depends_on\": [], \"priority\": \"medium\", \"inputs\": [\"a.txt\"], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}, {\"id\": \"s2\", \"worker\": \"critic\", \"objective\": \"do s2\", \"why\": \"\", \"depends_on\": [\"s1\"], \"priority\": \"medium\", \"inputs\": [], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}]}","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}',0.01);
INSERT INTO "events" VALUES('r-cut-off',4,1,'subtask/s1/draft','subtask-drafted',5,1.79609577670482516284e+09,'{"name":"subtask/s1/draft","at":1796095776.7048252,"kind":"subtask-drafted","subtask":{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}',NULL);
INSERT INTO "events" VALUES('r-cut-off',5,1,'subtask/s1/start','subtask-started',5,1.79609577670489144324e+09,'{"name":"subtask/s1/start","at":1796095776.7048914,"kind":"subtask-started","subtask_id":"s1","fingerprint":"cf989fc20dc8eb1b2b3a34bd23a3eea4bf3748fce82290ba51daa621fc6a482c","built_on":{}}',NULL);
INSERT INTO "events" VALUES('r-cut-off',6,1,'subtask/s1/call/1/start','call-started',5,1.79609577670530843737e+09,'{"name":"subtask/s1/call/1/start","at":1796095776.7053084,"kind":"call-started","step":"subtask/s1/call/1","caller":"worker:analyst","model":"fake-small","subtask_id":"s1"}',NULL);
INSERT INTO "events" VALUES('r-cut-off',7,1,'subtask/s1/call/1','call-finished',5,1.79609577670553517345e+09,'{"texts":[[["reply","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/call/1","at":1796095776.7055352,"kind":"call-finished","caller":"worker:analyst","subtask_id":"s1","reply":{"text":"","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}',0.01);
INSERT INTO "events" VALUES('r-cut-off',8,1,'plan/1','plan-accepted',5,1.79609577670753550529e+09,'{"name":"plan/1","at":1796095776.7075355,"kind":"plan-accepted","plan":{"analysis":"what it is about","direct_answer":null,"mode":"static","why":"all is known from the start","verify":"none","subtasks":[{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null},{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}],"custom_workers":[]},"warnings":[],"left_out":[],"estimate":{"calls":{"low":3,"high":3},"tokens":{"low":3600,"high":31000},"usd":{"low":0.0,"high":0.0},"seconds":{"low":4.5,"high":260.0}}}',NULL);
INSERT INTO "events" VALUES('r-cut-off',9,1,'subtask/s1/result','subtask-finished',5,1.79609577670789766308e+09,'{"texts":[[["result","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/result","at":1796095776.7078977,"kind":"subtask-finished","result":{"subtask_id":"s1","worker":"analyst","status":"succeeded","text":"","value":null,"parts":[],"errors":[],"notes":[],"sources":[],"usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"estimated_in":0,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"seconds":0.0028170329987915466,"saved":null,"taken_from":"","fingerprint":"cf989fc20dc8eb1b2b3a34bd23a3eea4bf3748fce82290ba51daa621fc6a482c","built_on":{}}}',NULL);
INSERT INTO "events" VALUES('r-cut-off',10,1,'subtask/s2/draft','subtask-drafted',5,1.79609577670810985567e+09,'{"name":"subtask/s2/draft","at":1796095776.7081099,"kind":"subtask-drafted","subtask":{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}',NULL);
INSERT INTO "events" VALUES('r-cut-off',11,1,'subtask/s2/start','subtask-started',5,1.79609577670817685121e+09,'{"name":"subtask/s2/start","at":1796095776.7081769,"kind":"subtask-started","subtask_id":"s2","fingerprint":"f8cada98e34d7fb9764f74c8d0dc9a1c825194b07b4c00d0980a9e9301d27f26","built_on":{"s1":"c99f5127977bc979"}}',NULL);
INSERT INTO "events" VALUES('r-cut-off',12,1,'subtask/s2/call/1/start','call-started',5,1.79609577670853018762e+09,'{"name":"subtask/s2/call/1/start","at":1796095776.7085302,"kind":"call-started","step":"subtask/s2/call/1","caller":"worker:critic","model":"fake-small","subtask_id":"s2"}',NULL);
INSERT INTO "events" VALUES('r-cut-off',13,1,'subtask/s2/call/1/failed','call-failed',5,1.79609577671166753768e+09,'{"name":"subtask/s2/call/1/failed","at":1796095776.7116675,"kind":"call-failed","step":"subtask/s2/call/1","caller":"worker:critic","subtask_id":"s2","error":"abandoned","usage":{"model":"","calls":0,"attempts":0,"tokens_in":0,"estimated_in":0,"tokens_out":0,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.0,"saved_usd":0.0,"seconds":0.0,"searches":0,"fetches":0,"containers":0}}',0.0);
CREATE TABLE meta (schema_version INTEGER NOT NULL);
INSERT INTO "meta" VALUES(4);
CREATE TABLE run_texts (
            run_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (run_id, digest)
        ) WITHOUT ROWID;
INSERT INTO "run_texts" VALUES('r-cut-off','56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012');
INSERT INTO "run_texts" VALUES('r-done','56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012');
INSERT INTO "run_texts" VALUES('r-cut-off','73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719');
INSERT INTO "run_texts" VALUES('r-done','73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719');
INSERT INTO "run_texts" VALUES('r-planned','73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719');
CREATE TABLE runs (
            run_id TEXT PRIMARY KEY,
            created_at REAL NOT NULL,
            epoch INTEGER NOT NULL,
            owner TEXT NOT NULL
        , idempotency_key TEXT, principal TEXT, budget_usd REAL);
INSERT INTO "runs" VALUES('r-done',1.79609577662007379537e+09,1,'c70e8a6c317b7afd',NULL,'',2.0);
INSERT INTO "runs" VALUES('r-planned',1.79609577668521165844e+09,1,'c70e8a6c317b7afd',NULL,'',2.0);
INSERT INTO "runs" VALUES('r-cut-off',1.79609577669829058648e+09,1,'f29698c6b7fe5f69',NULL,'',2.0);
CREATE TABLE texts (digest TEXT PRIMARY KEY, text TEXT NOT NULL);
INSERT INTO "texts" VALUES('73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719','ALPHA');
INSERT INTO "texts" VALUES('56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012','0. It is so – for a reason.
1. It is so – for a reason.
2. It is so – for a reason.
3. It is so – for a reason.
4. It is so – for a reason.
5. It is so – for a reason.
6. It is so – for a reason.
7. It is so – for a reason.
8. It is so – for a reason.
9. It is so – for a reason.
10. It is so – for a reason.
11. It is so – for a reason.
12. It is so – for a reason.
13. It is so – for a reason.
14. It is so – for a reason.
15. It is so – for a reason.
16. It is so – for a reason.
17. It is so – for a reason.
18. It is so – for a reason.
19. It is so – for a reason.
20. It is so – for a reason.
21. It is so – for a reason.
22. It is so – for a reason.
23. It is so – for a reason.
24. It is so – for a reason.
25. It is so – for a reason.
26. It is so – for a reason.
27. It is so – for a reason.
28. It is so – for a reason.
29. It is so – for a reason.
30. It is so – for a reason.
31. It is so – for a reason.
32. It is so – for a reason.
33. It is so – for a reason.
34. It is so – for a reason.
35. It is so – for a reason.
36. It is so – for a reason.
37. It is so – for a reason.
38. It is so – for a reason.
39. It is so – for a reason.
40. It is so – for a reason.
41. It is so – for a reason.
42. It is so – for a reason.
43. It is so – for a reason.
44. It is so – for a reason.
45. It is so – for a reason.
46. It is so – for a reason.
47. It is so – for a reason.
48. It is so – for a reason.
49. It is so – for a reason.
50. It is so – for a reason.
51. It is so – for a reason.
52. It is so – for a reason.
53. It is so – for a reason.
54. It is so – for a reason.
55. It is so – for a reason.
56. It is so – for a reason.
57. It is so – for a reason.
58. It is so – for a reason.
59. It is so – for a reason.');
CREATE INDEX runs_by_time ON runs (created_at);
CREATE UNIQUE INDEX runs_by_key ON runs (idempotency_key);
CREATE INDEX runs_by_text ON run_texts (digest);
CREATE INDEX events_by_offer ON events (CASE
    WHEN json_valid(data) THEN nullif(json_extract(data, '$.result.fingerprint'), '')
END, at) WHERE kind = 'subtask-finished';
CREATE INDEX runs_by_principal ON runs (principal, created_at);
CREATE INDEX events_by_cost ON events (run_id, at, usd) WHERE usd IS NOT NULL;
COMMIT;
